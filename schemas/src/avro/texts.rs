//! Checks that the texts of a datum are UTF-8. Neighbours are checked as one text, sixteen bytes at a time.
//!
//! Owns the check of texts whose letters have one or two bytes, as nearly all texts of registers have. The standard
//! library checks the others. No text passes that is not UTF-8.

/// The texts of one datum, in their order. Those after the last gap are not checked yet.
#[derive(Debug)]
pub(super) struct Texts<'a> {
    bytes: &'a [u8],
    from: usize,
    to: usize,
}

/// How many bytes are checked at once: they fit a register of every processor that this is built for.
const LANES: usize = 16;

type Lanes = [u8; LANES];

/// What was seen of a text so far, by the offset modulo sixteen.
struct Seen {
    /// The greatest byte: 0xe0 and above begin letters of more than two bytes.
    most: Lanes,
    /// The least byte, counted from 0xc0: 0xc0 and 0xc1 begin no letter.
    least: Lanes,
    /// Not 0 where a byte continues a letter that no byte has begun, or the reverse.
    odd: Lanes,
}

impl<'a> Texts<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        // As if a text ended where the datum begins. No text begins there: each has its length before it.
        Self { bytes, from: 1, to: 0 }
    }

    /// Adds a text, whose length ends where it starts. `between` is the number of bytes between it and the text before
    /// it, if these are neighbours; the bytes must then be below 0x80. `false` when a text before it is not UTF-8.
    #[inline]
    pub(super) fn add(&mut self, start: usize, end: usize, between: usize) -> bool {
        // A byte below 0x80 is no part of a letter of several bytes: both texts are UTF-8 if the whole is.
        let is_neighbour = start.wrapping_sub(self.to) == between;
        let are_right = is_neighbour || self.are_right();
        if !is_neighbour {
            self.from = start;
        }
        self.to = end;
        are_right
    }

    /// Whether all texts that were not checked yet are UTF-8.
    #[inline]
    pub(super) fn are_right(&self) -> bool {
        is_right(self.bytes, self.from, self.to)
    }
}

/// The byte before `from` must be below 0x80.
#[inline(never)]
fn is_right(bytes: &[u8], from: usize, to: usize) -> bool {
    if from > to {
        return true;
    }
    let Some(text) = bytes.get(from..to) else { return false };
    if text.len() < LANES {
        return text.is_ascii() || is_utf8(text);
    }
    let before = bytes.get(from - 1..to - 1);
    before.is_some_and(|before| is_of_short_letters(text, before)) || is_utf8(text)
}

#[inline(never)]
fn is_utf8(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok()
}

/// `before` begins and ends one byte before `text`.
#[inline]
fn is_of_short_letters(text: &[u8], before: &[u8]) -> bool {
    let mut seen = Seen { most: [0; LANES], least: [u8::MAX; LANES], odd: [0; LANES] };
    for (block, before) in text.as_chunks().0.iter().zip(before.as_chunks().0) {
        seen.add(block, before);
    }
    // The remaining bytes, with some that were seen before.
    if let (Some(block), Some(before)) = (text.last_chunk(), before.last_chunk()) {
        seen.add(block, before);
    }
    seen.is_right() && text.last().is_some_and(|last| *last < 0xc0)
}

impl Seen {
    // As a call, it would pass the lanes through memory.
    #[inline(always)]
    fn add(&mut self, block: &Lanes, before: &Lanes) {
        self.most = by_lane(&self.most, block, u8::max);
        self.least = by_lane(&self.least, block, |least, byte| least.min(byte.wrapping_sub(0xc0)));
        let odd = by_lane(block, before, |byte, before| mask(byte & 0xc0 == 0x80) ^ mask(before >= 0xc0));
        self.odd = by_lane(&self.odd, &odd, |before, now| before | now);
    }

    #[inline]
    fn is_right(&self) -> bool {
        let wrong = by_lane(&self.most, &self.least, |most, least| mask(most >= 0xe0) | mask(least < 2));
        by_lane(&self.odd, &wrong, |odd, wrong| odd | wrong).iter().fold(0, |all, lane| all | lane) == 0
    }
}

#[inline]
fn by_lane(left: &Lanes, right: &Lanes, of: impl Fn(u8, u8) -> u8) -> Lanes {
    let mut lanes = [0; LANES];
    for (lane, (left, right)) in lanes.iter_mut().zip(left.iter().zip(right)) {
        *lane = of(*left, *right);
    }
    lanes
}

/// All bits or none, as a processor's comparison of lanes gives them.
#[inline]
const fn mask(is: bool) -> u8 {
    if is { u8::MAX } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pairs of the bytes before a text's length, and the text.
    fn are_utf8(texts: &[(Vec<u8>, Vec<u8>)]) -> bool {
        let mut bytes = Vec::new();
        let mut ranges = Vec::new();
        for (before, text) in texts {
            let between = before.len() + 1;
            bytes.extend(before);
            bytes.push(0);
            ranges.push((bytes.len(), bytes.len() + text.len(), between));
            bytes.extend(text);
        }
        let mut checked = Texts::new(&bytes);
        let all = ranges.iter().all(|(start, end, between)| {
            // Texts are no neighbours where a byte between them is not below 0x80.
            let is_low = bytes[start - between..*start].is_ascii();
            checked.add(*start, *end, if is_low { *between } else { usize::MAX })
        });
        all && checked.are_right()
    }

    #[test]
    fn every_pair_of_bytes_at_every_kind_of_place() {
        for at in [0, 1, 14, 15, 16, 37, 38] {
            for pair in 0..=u16::MAX {
                let mut text = [b'a'; 40];
                text[at..at + 2].copy_from_slice(&pair.to_be_bytes());
                let expected = std::str::from_utf8(&text).is_ok();
                assert_eq!(are_utf8(&[(vec![], text.to_vec())]), expected, "{pair:x} at {at}");
            }
        }
    }

    #[test]
    fn a_letter_does_not_go_on_in_the_next_text() {
        let half = (vec![], b"Latvijas ielas \xc4".to_vec());
        let rest = (vec![], b"\x81boli un tr\xc4\x81 m".to_vec());
        assert!(!are_utf8(&[half.clone(), rest.clone()]));
        assert!(!are_utf8(&[half]));
        assert!(!are_utf8(&[rest]));
    }

    proptest! {
        #[test]
        fn it_says_what_the_standard_library_says(
            texts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3), "[a-zāšž„“€🜁]{0,40}"), 0..6),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut texts: Vec<_> = texts.into_iter().map(|(before, text)| (before, text.into_bytes())).collect();
            for (text, byte, value) in flips {
                let text = if texts.is_empty() { continue } else { text.get_mut(&mut texts) };
                if !text.1.is_empty() {
                    *byte.get_mut(&mut text.1) = value;
                }
            }
            let expected = texts.iter().all(|(_, text)| std::str::from_utf8(text).is_ok());
            prop_assert_eq!(are_utf8(&texts), expected);
        }
    }
}
