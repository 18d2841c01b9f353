"""Other transports under the same model: what the native front was chosen over (docs/decisions/0008).

Prototypes, as bare as they can be: they trust their input, know one model, and have no limits. Ours does
all it does in the product and is measured beside them.
"""
