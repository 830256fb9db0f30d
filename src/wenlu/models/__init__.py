"""Models: token ids in, logits out. They never see text, and know nothing of training or files of texts.

Legend of the shape suffixes in this package: B batch, S query length, T key length, D hidden size, H query heads,
K key/value heads, E head size, F feed-forward size, V vocabulary, N any number of rows.
"""
