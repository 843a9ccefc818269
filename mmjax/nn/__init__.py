"""Pure layers: plain ints and dtypes in, arrays out. No configuration and no mesh reaches them."""
