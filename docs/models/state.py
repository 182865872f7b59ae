#!/usr/bin/env python3
"""The state as a log of blocks, in random histories: who writes it, how it is cleaned, and what a reader takes from it.

One partition. Events change a few keys. Routers take turns as the state's writer: a new one fences the last one, reads the
state, and goes on. A commit appends blocks of images and one checkpoint, whole or not at all, and its writer may die without
learning which. The checkpoint says the first offset that the state needs. Cleaning writes the present images of the oldest
block again, at the end, and moves that offset behind the block. Records before the first offset of any earlier checkpoint
may be deleted at any moment. A reader fixes a checkpoint, learns each key's last entry, gives those, and may break off
at any block; another one goes on from there. Every history is checked for what must be true:

  state      at some checkpoint, the fold of the blocks from its first offset on is not the fold of the log
  snapshot   what a reader gave is not the state at its checkpoint, though no reader said so
  unbounded  the state holds more than four times what is present, and a little

The rules as they are (docs/protocol.md, 3 and 4) break none of these. Each shortcut breaks some. A model shows that a hole exists
and that a rule survives some thousand histories; it proves nothing. Standard library only; a seed repeats a history.
"""

import collections
import random
import sys

HISTORIES = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
STEPS = 600
KEYS = "abcdefgh"
RESTING = "ABCDEFGHIJKLMNOP"  # keys that are made at the beginning and change seldom
SLACK = 6  # entries that no cleaning is worth
GONE = None  # the value of a key that is deleted


def fold(changes):
    rows = {}
    for key, value in changes:
        if value is GONE:
            rows.pop(key, None)
        else:
            rows[key] = value
    return rows


class Topic:
    """The state's topic: records by offset. What is deleted, or dropped by the shortcut, nobody reads."""

    def __init__(self):
        self.records, self.first, self.dropped = [], 0, set()

    def checkpoints(self):
        return [at for at, record in enumerate(self.records) if record[0] == "checkpoint" and at >= self.first]

    def between(self, first, end):
        """The records of a range, with their offsets."""
        for at in range(max(first, self.first), end):
            if at not in self.dropped:
                yield at, self.records[at]

    def entries(self, first, end):
        """Every entry of the blocks in a range, as (offset, key, value)."""
        return [(at, key, value) for at, record in self.between(first, end) if record[0] == "block" for key, value in record[1]]


def size(record):
    """Entries of a record; a checkpoint is as one."""
    return len(record[1]) if record[0] == "block" else 1


class Writer:
    """A router while it writes the state: what it knows is what it read when it began."""

    def __init__(self, topic, rules):
        self.topic, self.rules = topic, rules
        self.to, self.first, self.place, self.held, self.paid = 0, 0, {}, 0, 4 * SLACK
        self.price, self.is_cleaned = 0, False
        self.drops = set()  # blocks that the shortcut drops with the next commit
        checkpoints = topic.checkpoints()
        if checkpoints:
            _, self.to, self.first = topic.records[checkpoints[-1]]
            for at, record in topic.between(self.first, len(topic.records)):
                self.take(at, record)

    def take(self, at, record):
        self.held += size(record)
        for key, value in record[1] if record[0] == "block" else []:
            if value is GONE:
                self.place.pop(key, None)
            else:
                self.place[key] = at

    def clean(self, group):
        """The present images of the oldest blocks, as many as entries came since, while the state holds too much."""
        present = len({key for key in self.place if key not in group} | {k for k, v in group.items() if v is not GONE})
        held, first, again = self.held + len(group), self.first, []
        if self.paid < self.price:
            return first, again
        self.price = 0
        records = list(self.topic.between(self.first, len(self.topic.records)))
        if self.rules["cleans"] == "the emptiest":
            live = lambda at, record: sum(self.place.get(key) == at for key, _ in record[1]) / len(record[1])
            blocks = [(at, record) for at, record in records if record[0] == "block"]
            records = sorted(blocks, key=lambda block: live(*block))
        for at, record in records:
            entries = record[1] if record[0] == "block" else []
            touched = group if self.rules["again"] == "what the group lacks" else {}
            live = [(key, value) for key, value in entries if self.place.get(key) == at and key not in touched]
            self.is_cleaned = held > (present * 3 // 2 if self.is_cleaned else 2 * present + SLACK)
            if not self.is_cleaned:
                break
            if len(live) > self.paid:
                self.price = max(len(live), present // 8)
                break
            self.paid -= len(live)
            self.held -= size(record)
            held -= size(record) - len(live)
            again += live
            if self.rules["cleans"] == "the emptiest":
                self.drops.add(at)
            else:
                first = at + 1
        return first, again

    def commit(self, events):
        """The records of the next commit."""
        group = {key: value for key, value in events if value is not GONE or self.rules["deletes"] == "written"}
        if self.rules["deletes"] != "written":
            for key, value in dict(events).items():
                if value is GONE:
                    self.place.pop(key, None)
        self.paid = min(self.paid + len(group) + 1, 4 * SLACK)
        self.first, again = self.clean(group)
        self.to += len(events)
        blocks = [("block", part) for part in (list(group.items()), again) if part]
        return blocks + [("checkpoint", self.to, self.first)]


class Reader:
    """A snapshot of the state at one checkpoint; it may be continued by another reader."""

    def __init__(self, topic, rules):
        self.topic, self.rules, self.rows, self.end = topic, rules, {}, None

    def begin(self):
        checkpoints = self.topic.checkpoints()
        if not checkpoints:
            return
        self.rows, self.end = {}, checkpoints[-1]
        self.next = self.topic.records[self.end][2]
        self.learn()

    def learn(self):
        end = self.end
        if self.rules["resumes"] == "to the newest":
            end = self.topic.checkpoints()[-1]
        self.last = {key: at for at, key, _ in self.topic.entries(self.next, end)}

    def resume(self):
        """Another router goes on: it learns from where the other one stopped."""
        if self.end is None:
            return
        if self.next < self.topic.first:
            self.begin()  # overtaken
        else:
            self.learn()

    def step(self):
        """Gives one block; returns whether the snapshot is whole."""
        if self.end is None:
            return False
        if self.next < self.topic.first:
            if self.rules["reads"] == "behind what is gone":
                self.next = self.topic.first
            else:
                self.begin()
                return False
        if self.next < self.end:
            kind, *rest = self.topic.records[self.next]
            for key, value in rest[0] if kind == "block" else []:
                is_last = self.last.get(key) == self.next or self.rules["reads"] == "once"
                if is_last and value is not GONE:
                    self.rows[key] = value
            self.next += 1
        return self.next >= self.end


def history(seed, **rules):
    draw = random.Random(seed)
    log, topic, found, given = [], Topic(), set(), 0
    writer, reader = Writer(topic, rules), Reader(topic, rules)
    allowed = 0  # records before it may be deleted
    hot = draw.sample(KEYS, 3)
    log += [(key, "at rest") for key in RESTING[: draw.randrange(len(RESTING))]]

    for step in range(STEPS):
        action = draw.choice(["event"] * 5 + ["commit"] * 4 + ["take over", "delete", "begin", "resume"] + ["step"] * 4)
        if action == "event":
            key = draw.choice(hot if draw.random() < 0.7 else KEYS if draw.random() < 0.9 else RESTING)
            log.append((key, GONE if draw.random() < 0.3 else step))
        elif action == "commit":
            events = log[writer.to : writer.to + draw.randrange(1, 6)]
            if not events:
                continue
            records = writer.commit(events)
            dies, is_made = draw.random() < 0.1, draw.random() < 0.5
            if dies and not is_made:
                writer = Writer(topic, rules)
                continue
            at = len(topic.records)
            topic.records += records
            topic.dropped |= writer.drops
            if dies:
                writer = Writer(topic, rules)
            else:
                for offset, record in enumerate(records, at):
                    writer.take(offset, record)
            mark = len(topic.records) - 1
            _, to, first = topic.records[mark]
            rows = fold((key, value) for _, key, value in topic.entries(first, mark))
            if rows != fold(log[:to]) or first < topic.first:
                found.add("state")
                break
            if sum(size(record) for _, record in topic.between(first, mark)) > 4 * len(rows) + 2 * SLACK:
                found.add("unbounded")
        elif action == "take over":
            writer = Writer(topic, rules)
        elif action == "delete":
            # What an earlier checkpoint did not need; in practice one that is a day old.
            topic.first = max(topic.first, allowed)
            checkpoints = topic.checkpoints()
            if checkpoints:
                allowed = topic.records[checkpoints[-1]][2]
        elif action == "begin" and draw.random() < 0.3:
            reader.begin()
        elif action == "resume":
            reader.resume()
        elif action == "step" and reader.step():
            given += 1
            if reader.rows != fold(log[: topic.records[reader.end][1]]):
                found.add("snapshot")
                break
            reader = Reader(topic, rules)
    return found, given


RULES = dict(deletes="written", cleans="the oldest", again="what the group lacks", resumes="to its end", reads="twice")
SHORTCUTS = {
    "the rules": {},
    "a deleted key leaves no entry": dict(deletes="not written"),
    "the emptiest block is cleaned": dict(cleans="the emptiest"),
    "images are written again over newer ones": dict(again="all"),
    "a resumed snapshot learns to the newest checkpoint": dict(resumes="to the newest"),
    "a reader goes on behind what is gone": dict(reads="behind what is gone"),
    "a reader reads once": dict(reads="once"),
}


def main():
    is_right = True
    for name, shortcut in SHORTCUTS.items():
        broken, given = collections.Counter(), 0
        for seed in range(HISTORIES):
            found, snapshots = history(seed, **(RULES | shortcut))
            broken.update(found)
            given += snapshots
        is_right &= bool(broken) == (name != "the rules") and given > 0
        print(f"{name:52s} {given:7d} snapshots in {HISTORIES} histories; broken in: {dict(broken) or 'none'}")
    sys.exit(0 if is_right else 1)


main()
