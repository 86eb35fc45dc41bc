"""Do cameras, images and depth of a data set agree?"""
