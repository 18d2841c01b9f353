"""How far one stretch of rows lies from another: figures of our own, and Evidently's report of them."""
