"""Whom students are measured against: an encoder fine-tuned on intents and slots together, and an LSTM with its own embedding table."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from tain.foundation.machine import fastest_dtype
from tain.models.embedder import Embedder
from tain.models.saved import locate
from tain.recipes.distil.teacher import TeacherOutputs
from tain.text.records import Example, Prediction
from tain.text.tags import tokens_of


class _TwoHeads:
    """Intents and slots from a module that gives a vector a text and a vector a token; learns from labels, predicts, teaches."""

    body: Any
    reads, truncated = True, 0
    is_learnt_in_bfloat16 = False
    head_learning_rate: float | None = None  # default: as the body's
    embedder: Embedder | None = None

    def __init__(self, name: str, examples: Sequence[Example], dim: int) -> None:
        self.name = name
        self.labels = tuple(sorted({example.label for example in examples if example.label}))
        self.tags = tuple(sorted({tag for example in examples for tag in example.tags or ()}))
        self.intents = nn.Linear(dim, len(self.labels))
        self.slots = nn.Linear(dim, len(self.tags)) if self.tags else None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def vectors(self, texts: list[str]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A vector a text (texts, dim), and one a token that was read, text by text (tokens, dim)."""
        raise NotImplementedError

    def parts(self) -> list[nn.Module]:
        return [part for part in (self.body, self.intents, self.slots) if part is not None]

    @property
    def size_bytes(self) -> int:
        return 4 * sum(parameter.numel() for part in self.parts() for parameter in part.parameters())

    def learn(self, examples, *, epochs, learning_rate, batch_texts, seed, weight_decay=0.01) -> None:
        """AdamW, a twentieth of the steps to warm up, then down to nothing."""
        rng = np.random.default_rng(seed)
        parameters = [p for part in self.parts() for p in part.to(self.device).train().parameters() if p.requires_grad]
        of_body = [parameter for parameter in self.body.parameters() if parameter.requires_grad]
        of_heads = [parameter for part in self.parts() if part is not self.body for parameter in part.parameters()]
        groups = [{"params": of_body, "lr": learning_rate}, {"params": of_heads, "lr": self.head_learning_rate or learning_rate}]
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
        steps = epochs * -(-len(examples) // batch_texts)
        warmup = max(1, steps // 20)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        )
        label_of = {label: number for number, label in enumerate(self.labels)}
        tag_of = {tag: number for number, tag in enumerate(self.tags)}
        for _ in range(epochs):
            order = rng.permutation(len(examples))
            for start in range(0, len(order), batch_texts):
                batch = [examples[index] for index in order[start : start + batch_texts]]
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_learnt_in_bfloat16):
                    text, tokens = self.logits([example.text for example in batch])
                text, tokens = text.float(), [each.float() for each in tokens]
                loss = F.cross_entropy(text, torch.tensor([label_of[example.label] for example in batch], device=self.device))
                if self.slots is not None:
                    given = [tag_of[tag] for example, found in zip(batch, tokens, strict=True) for tag in example.tags[: len(found)]]
                    loss = loss + F.cross_entropy(torch.cat(tokens), torch.tensor(given, device=self.device))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
        for part in self.parts():
            part.eval()

    def without_slots(self) -> "_TwoHeads":
        """The same, weights and all, as it is for those who only ask for intents."""
        alone = copy.copy(self)
        alone.slots, alone.tags = None, ()
        return alone

    def save(self, file: Path) -> None:
        """Keep what it has learnt, so that other students can be taught by it in a later call."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in nn.ModuleList(self.parts()).state_dict().items()}, part)
        part.replace(file)

    def load(self, file: Path) -> None:
        nn.ModuleList(self.parts()).to(self.device).eval().load_state_dict(load_file(file))

    def logits(self, texts: list[str]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits of the texts (texts, labels), and of each text's tokens that were read (tokens, tags)."""
        vectors, tokens = self.vectors(texts)
        return self.intents(vectors), [self.slots(each) for each in tokens] if self.slots is not None else []

    @torch.inference_mode()
    def teach(self, texts, *, indices=None, progress=None) -> TeacherOutputs:
        whole: list[np.ndarray] = [np.empty(0)] * len(texts)
        spelt = list(whole)
        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(order), 128):
            batch = [int(index) for index in order[start : start + 128]]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_learnt_in_bfloat16):
                text, tokens = self.logits([texts[index] for index in batch])
            for row, index in enumerate(batch):
                whole[index] = text[row].float().cpu().numpy()
                if self.slots is not None:
                    read = tokens[row].float().cpu().numpy()
                    missing = len(tokens_of(texts[index])) - len(read)
                    spelt[index] = np.pad(read, ((0, missing), (0, 0)), constant_values=np.nan)
        return TeacherOutputs(text=np.stack(whole), tokens=spelt if self.slots is not None else None)

    def predict(self, texts, *, progress=None) -> list[Prediction]:
        taught, found = self.teach(texts), []
        assert taught.text is not None
        for index in range(len(texts)):
            tags = None
            if taught.tokens is not None:
                is_read = np.isfinite(taught.tokens[index][:, 0])
                best = np.nan_to_num(taught.tokens[index]).argmax(axis=1)
                tags = [self.tags[int(tag)] if read else "O" for tag, read in zip(best, is_read, strict=True)]
            found.append(Prediction(self.labels[int(taught.text[index].argmax())], None, tags))
        return found


class FineTuned(_TwoHeads):
    """An encoder with a head on the mean of its tokens and one on each word's first piece; its word embeddings stay as they are."""

    head_learning_rate = 2e-3

    def __init__(self, name: str, folder: str, examples: Sequence[Example]) -> None:
        import transformers

        path = locate(folder)
        # in bfloat16 on a CPU the fused attention's backward pass takes a third of a step: tain-mini 0.55 s with it, 0.31 without
        self.body = transformers.AutoModel.from_pretrained(path, trust_remote_code=False, dtype=torch.float32, attn_implementation="eager")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        self.body.get_input_embeddings().requires_grad_(False)
        super().__init__(name, examples, self.body.config.hidden_size)
        self.embedder = Embedder.load(folder, device=str(self.device), dtype="float32")  # untouched: what a static student starts from
        self.dropout = nn.Dropout(0.1)
        self.is_learnt_in_bfloat16 = fastest_dtype(self.device.type) == torch.bfloat16

    def vectors(self, texts):
        words = [tokens_of(text) for text in texts]
        encoded = self.tokenizer(words, is_split_into_words=True, padding=True, truncation=True, max_length=128, return_tensors="pt")
        hidden = self.body(**encoded.to(self.device)).last_hidden_state
        if self.body.training:
            hidden = self.dropout(hidden)
        is_token = encoded["attention_mask"][..., None].to(hidden.dtype)
        whole = (hidden * is_token).sum(dim=1) / is_token.sum(dim=1)
        firsts = []
        for row in range(len(texts)):
            owners = encoded.word_ids(row)
            indices = [index for index, owner in enumerate(owners) if owner is not None and owner != owners[index - 1]]
            firsts.append(hidden[row, indices])
        return whole, firsts


class Lstm(_TwoHeads):
    """Two bidirectional layers of 128 over vectors of 128 of the training texts' words, lower-cased; an unknown word has one for all."""

    def __init__(self, examples: Sequence[Example]) -> None:
        super().__init__("lstm", examples, 256)
        words = sorted({word for example in examples for word in tokens_of(example.text.lower())})
        self.number_of = {word: number for number, word in enumerate(words, start=2)}
        self.body = nn.ModuleDict(
            {
                "table": nn.Embedding(len(words) + 2, 128, padding_idx=0),
                "lstm": nn.LSTM(128, 128, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3),
            }
        )

    def vectors(self, texts):
        numbers = [[self.number_of.get(word, 1) for word in tokens_of(text.lower())] for text in texts]
        ids = torch.zeros(len(texts), max(map(len, numbers)), dtype=torch.long)
        for row, mine in enumerate(numbers):
            ids[row, : len(mine)] = torch.tensor(mine)
        if self.body.training:  # one word of twenty is unknown, so that its vector is learnt
            ids = torch.where((torch.rand(ids.shape) < 0.05) & (ids > 0), 1, ids)
        values = F.dropout(self.body["table"](ids.to(self.device)), 0.3, self.body.training)
        packed = nn.utils.rnn.pack_padded_sequence(values, list(map(len, numbers)), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.body["lstm"](packed)[0], batch_first=True)
        is_token = (ids > 0)[..., None].to(self.device)
        whole = states.masked_fill(~is_token, -torch.inf).amax(dim=1)
        return whole, [states[row, : len(mine)] for row, mine in enumerate(numbers)]
