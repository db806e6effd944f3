//! Which acknowledged writes are gone: computed from what was acknowledged and what is read back.

use std::collections::BTreeMap;

use crate::types::Version;

/// How many lost writes are told in words.
const EXAMPLES: usize = 5;

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The number of the key.
    pub key: u32,
    pub version: Version,
}

/// A read of a key through one node, after everything has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBack {
    pub key: u32,
    pub node: u16,
    pub answer: Answer,
}

/// What a read back showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Version(Version),
    /// The node says that the key holds nothing.
    Nothing,
    /// There was no answer to be had.
    None,
}

/// What is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Acknowledged writes of which some node shows an older version, or nothing.
    pub writes: u64,
    /// Written keys that some read gave no answer for, or that nobody read.
    pub unread_keys: u64,
    /// The first lost writes, in words.
    pub examples: Vec<String>,
}

/// What of `written` is missing in `read_back`. A newer version than the acknowledged one is no
/// loss: the key was written again.
pub fn lost(written: &[Written], read_back: &[ReadBack]) -> Lost {
    let mut reads: BTreeMap<u32, Vec<&ReadBack>> = BTreeMap::new();
    for read in read_back {
        reads.entry(read.key).or_default().push(read);
    }
    let mut by_key: BTreeMap<u32, Vec<Version>> = BTreeMap::new();
    for write in written {
        by_key.entry(write.key).or_default().push(write.version);
    }
    let mut lost = Lost::default();
    for (key, versions) in by_key {
        let reads = reads.get(&key).map(Vec::as_slice).unwrap_or_default();
        if reads.is_empty() || reads.iter().any(|read| read.answer == Answer::None) {
            lost.unread_keys += 1;
        }
        for version in versions {
            if let Some(read) = reads.iter().find(|read| is_behind(read.answer, version)) {
                lost.writes += 1;
                if lost.examples.len() < EXAMPLES {
                    lost.examples.push(in_words(read, version));
                }
            }
        }
    }
    lost
}

fn is_behind(answer: Answer, version: Version) -> bool {
    match answer {
        Answer::Version(seen) => seen < version,
        Answer::Nothing => true,
        Answer::None => false,
    }
}

fn in_words(read: &ReadBack, version: Version) -> String {
    let (key, node) = (read.key, read.node);
    let shows = match read.answer {
        Answer::Version(seen) => format!("version {seen}"),
        Answer::Nothing | Answer::None => "nothing".to_owned(),
    };
    format!("key number {key}: version {version} was acknowledged, node {node} shows {shows}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn version(time: u64) -> Version {
        Version::new(time, NodeId(1))
    }

    fn written(key: u32, time: u64) -> Written {
        Written { key, version: version(time) }
    }

    fn read(key: u32, node: u16, answer: Answer) -> ReadBack {
        ReadBack { key, node, answer }
    }

    #[test]
    fn a_write_is_lost_where_any_node_shows_something_older_or_nothing() {
        let writes = [written(1, 10), written(1, 20), written(2, 30), written(3, 40)];
        let kept = |key, time| read(key, 1, Answer::Version(version(time)));
        let all_well = [kept(1, 20), kept(2, 31), kept(3, 40)];
        assert_eq!(lost(&writes, &all_well), Lost::default());

        let older = read(1, 2, Answer::Version(version(10)));
        let missing = read(2, 3, Answer::Nothing);
        let found = lost(&writes, &[kept(1, 20), kept(2, 30), kept(3, 40), older, missing]);
        assert_eq!((found.writes, found.unread_keys), (2, 0));
        assert!(found.examples[0].contains("key number 1") && found.examples[0].contains("node 2"));
        assert!(found.examples[1].ends_with("node 3 shows nothing"), "{:?}", found.examples);
    }

    #[test]
    fn a_key_that_could_not_be_read_is_neither_lost_nor_well() {
        let writes = [written(1, 10), written(2, 20), written(2, 21)];
        let found = lost(&writes, &[read(1, 1, Answer::None)]);
        assert_eq!((found.writes, found.unread_keys), (0, 2));
        let through_others = [read(2, 1, Answer::None), read(2, 2, Answer::Nothing)];
        assert_eq!(lost(&writes[1..], &through_others).writes, 2);
    }
}
