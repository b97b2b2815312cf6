"""
The benchmark: what an echo costs, in CPU of the server process, beside others in one run.
"""
