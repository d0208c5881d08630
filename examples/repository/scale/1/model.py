"""Every number times a factor: the whole of a model that is a function."""


def infer(x, parameters):
    return {"y": x * x.dtype.type(parameters["factor"])}
