"""Why a compile came out as it did: answers in sentences with figures, worked out from what the compile wrote."""
