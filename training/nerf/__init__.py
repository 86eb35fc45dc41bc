"""Training of radiance fields: across scenes and on one."""
