"Tables of a paper with one number changed, for checks that must notice."

import copy


def changed(tables, place, value):
    "The tables with one number changed; place is a path of keys."
    other = copy.deepcopy(tables)
    *way, last = place
    target = other
    for key in way:
        target = target[key]
    target[last] = value
    return other
