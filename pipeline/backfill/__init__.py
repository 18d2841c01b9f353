"""Features of months of recordings, by tasks that run anywhere and give the stream's bits (docs/scaling.md).

days      which ticks a day of a product needs (pure)
units     which recordings can be read without the recordings before them
tasks     the work of a worker: reads a unit, computes and writes a day of a product
run       submits the tasks to a Dask cluster, retries failed tasks, counts
"""
