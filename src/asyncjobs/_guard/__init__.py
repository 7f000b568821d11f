"""The web application comes first: jobs give way when its event loop lags or its pool is empty, and who blocks is named.

The lag is measured inside the loop, by a timer that says how late it came: a thread that asks has to wait for the GIL
first, for up to 5 ms, and gets it just when the loop has nothing to do. That a timer has *not* come is seen from outside.
"""
