def evaluate(options):
    raise NotImplementedError
