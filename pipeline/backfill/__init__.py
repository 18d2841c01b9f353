"""Features of months of recordings, by tasks that run anywhere and give the stream's bits (docs/scaling.md).

days      which ticks a day of a product needs (pure)
units     which recordings can be read without the recordings before them
tasks     what a worker does: read a unit, compute and write a day of a product
run       hands the tasks to a Dask cluster, retries what failed, counts
"""
