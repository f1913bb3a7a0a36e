"""Texts as token indices, in batches of similar length."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from torch.nn.utils.rnn import pad_sequence

from wordnet import Gloss, add_character_noise

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]  # [PAD] has index 0


def train_tokenizer(glosses: list[Gloss], vocabulary: int, max_tokens: int) -> Tokenizer:
    """A WordPiece vocabulary made of the texts, whatever their order."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    trainer = WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator((gloss.text for gloss in glosses), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


@dataclass(frozen=True)
class EncodedTexts:
    """Token indices of texts, from [CLS] to [SEP], and their labels."""

    ids: list[list[int]]
    labels: list[int]

    @classmethod
    def of(cls, glosses: list[Gloss], tokenizer: Tokenizer, severity: int = 0) -> "EncodedTexts":
        """The texts of the glosses; with the character noise of a severity, the same in every call."""
        texts = [gloss.text for gloss in glosses]
        if severity:
            texts = [add_character_noise(text, severity, (i,)) for i, text in enumerate(texts)]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        return cls(ids, [gloss.label for gloss in glosses])

    def batch(self, chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token indices (B, N), padded at the end, their mask (B, N; 1 where a token is), labels (B,)."""
        ids = pad_sequence([torch.tensor(self.ids[i]) for i in chosen], batch_first=True)
        lengths = torch.tensor([len(self.ids[i]) for i in chosen])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return ids, mask, torch.tensor([self.labels[i] for i in chosen])

    def batches(self, size: int, random: np.random.Generator) -> list[list[int]]:
        """Every text once, at random, but with those of similar length together, so that little is padded."""
        lengths = np.array([len(ids) for ids in self.ids])
        order = np.argsort(lengths + random.uniform(-2, 2, len(lengths))).tolist()
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        return [batches[i] for i in random.permutation(len(batches))]
