//! Partitions of a channel: all of them, and the one that a key belongs to.
//!
//! Owns Kafka's own default partitioner (murmur2), so that any Kafka producer agrees.

use crate::ids::Partition;

const SEED: u32 = 0x9747_b28c;
const MIX: u32 = 0x5bd1_e995;

// A partition's number is an index wherever `dit` runs.
const _: () = assert!(usize::BITS >= u32::BITS);

impl Partition {
    /// All partitions of a channel that has `count` of them.
    pub fn all(count: u32) -> impl DoubleEndedIterator<Item = Self> + Clone {
        (0..count).map(Self::new)
    }

    /// Its index in a list that has one value for each partition.
    pub const fn index(self) -> usize {
        self.get() as usize
    }
}

/// The partition of a key among `count` partitions (`count` at least 1).
pub fn of_key(key: &[u8], count: u32) -> Partition {
    Partition::new((murmur2(key) & 0x7fff_ffff) % count.max(1))
}

fn murmur2(data: &[u8]) -> u32 {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MIX);
        k = (k ^ (k >> 24)).wrapping_mul(MIX);
        hash = hash.wrapping_mul(MIX) ^ k;
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0_u32, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MIX);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_kafkas_own_test_values() {
        // Apache Kafka, UtilsTest.testMurmur2.
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), expected, "{text}");
        }
    }
}
