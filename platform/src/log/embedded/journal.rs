//! The store's journal, looked at before the store opens it: a torn tail is cut off, damage further up is refused.
//!
//! fjall 3.1 does neither well. After a power cut the last group may lie there with a hole in the middle, its sectors having
//! reached the disk in another order: fjall then mostly cuts it off, but refuses to open at all if the hole is inside a
//! record (`ChecksumMismatch`). And where the journal's middle is damaged, it may drop everything behind, acknowledged
//! records included, without a word.
//!
//! The log syncs each group before it writes the next one. So a broken group with a whole one behind it was acknowledged,
//! and one with nothing behind it need not have been.
//!
//! ```text
//!   batch   01 ‖ items u32 ‖ number u64   item …   03 ‖ xxh3 of the items u64 ‖ "FJL" 03
//!   item    02 ‖ kind u8 ‖ compression u8 ‖ keyspace u64 ‖ key len u16 ‖ value len u32 ‖ stored len u32 ‖ key ‖ value
//!   clear   04 ‖ keyspace u64
//! ```
//! Little endian; zeros up to the file's end (fjall `src/journal/entry.rs`).

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::folder::OpenError;

/// Makes the journals fit for the store, or tells that records are lost.
pub(super) fn repair(folder: &Path) -> Result<(), OpenError> {
    let disk = |error: io::Error| OpenError::disk(folder, error);
    let mut journals = journals(folder).map_err(disk)?;
    let newest = journals.pop();
    for (journal, is_newest) in journals.iter().map(|full| (full, false)).chain(newest.iter().map(|newest| (newest, true))) {
        let bytes = fs::read(journal).map_err(disk)?;
        let damaged = |at: usize| OpenError::Damaged {
            folder: folder.into(),
            found: format!("{} can't be read at byte {at}, and acknowledged records follow", journal.display()),
        };
        match check(&bytes) {
            Found::Whole => {}
            Found::Torn { at } if is_newest => {
                tracing::warn!(
                    journal = %journal.display(), at, "cut off an unfinished group of records that was never acknowledged; \
                     normal after a crash or a power cut"
                );
                let file = OpenOptions::new().write(true).open(journal).map_err(disk)?;
                file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(disk)?;
            }
            // A full journal was synced before the next one was made.
            Found::Torn { at } | Found::Damaged { at } => return Err(damaged(at)),
        }
    }
    Ok(())
}

/// Oldest first; the last one is in use.
fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Batches and then zeros.
    Whole,
    /// Whole batches up to here, none behind.
    Torn { at: usize },
    /// Whole batches behind this one, which is not.
    Damaged { at: usize },
}

fn check(journal: &[u8]) -> Found {
    let mut at = 0;
    while let Some(len) = batch_len(&journal[at..]) {
        at += len;
    }
    if journal[at..].iter().all(|byte| *byte == 0) {
        return Found::Whole;
    }
    // No payload can look like a batch: JSON has no raw control characters, and a batch begins with one.
    let is_acked = (at + 1..journal.len()).any(|at| batch_len(&journal[at..]).is_some());
    if is_acked { Found::Damaged { at } } else { Found::Torn { at } }
}

/// The length of the batch that these bytes begin with, if it is whole.
fn batch_len(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.strip_prefix(&[1])?;
    let items = u32::from_le_bytes(chunk(&mut rest)?);
    let _number: [u8; 8] = chunk(&mut rest)?;

    let mut hash = xxhash_rust::xxh3::Xxh3Default::new();
    for _ in 0..items {
        let item = rest;
        match chunk(&mut rest)? {
            [2] => {
                let _kind_compression_keyspace: [u8; 10] = chunk(&mut rest)?;
                let key = usize::from(u16::from_le_bytes(chunk(&mut rest)?));
                let _value: [u8; 4] = chunk(&mut rest)?;
                let stored = u32::from_le_bytes(chunk(&mut rest)?) as usize;
                rest = rest.get(key + stored..)?;
            }
            [4] => {
                let _keyspace: [u8; 8] = chunk(&mut rest)?;
            }
            _ => return None,
        }
        hash.update(&item[..item.len() - rest.len()]);
    }
    let rest = rest.strip_prefix(&[3])?.strip_prefix(&hash.digest().to_le_bytes())?.strip_prefix(b"FJL\x03")?;
    Some(bytes.len() - rest.len())
}

fn chunk<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(values: &[&[u8]]) -> Vec<u8> {
        let mut items = Vec::new();
        for value in values {
            items.extend_from_slice(&[2, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            items.extend_from_slice(&(value.len() as u32).to_le_bytes());
            items.extend_from_slice(&(value.len() as u32).to_le_bytes());
            items.push(b'k');
            items.extend_from_slice(value);
        }
        let mut batch = vec![1];
        batch.extend_from_slice(&(values.len() as u32).to_le_bytes());
        batch.extend_from_slice(&9u64.to_le_bytes());
        batch.extend_from_slice(&items);
        batch.push(3);
        batch.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&items).to_le_bytes());
        batch.extend_from_slice(b"FJL\x03");
        batch
    }

    #[test]
    fn zeros_end_a_journal() {
        assert_eq!(check(&[]), Found::Whole);
        assert_eq!(check(&[0; 100]), Found::Whole);
        assert_eq!(check(&[batch(&[b"one", b"two"]), batch(&[b"three"]), vec![0; 9]].concat()), Found::Whole);
    }

    #[test]
    fn last_batch_may_be_torn() {
        let (first, last) = (batch(&[b"one"]), batch(&[b"two", b"three"]));
        let whole = [first.clone(), last.clone()].concat();
        for cut in first.len() + 1..whole.len() {
            assert_eq!(check(&whole[..cut]), Found::Torn { at: first.len() }, "cut at {cut}");
        }
        for at in first.len()..whole.len() {
            let mut garbled = [whole.as_slice(), &[0; 50]].concat();
            garbled[at] ^= 0x55;
            let found = check(&garbled);
            // The batch's number is the one thing that its checksum leaves out.
            let is_number = (first.len() + 5..first.len() + 13).contains(&at);
            assert!(is_number || found == Found::Torn { at: first.len() }, "garbled at {at}: {found:?}");
        }
    }

    #[test]
    fn earlier_damage_is_told() {
        let (first, last) = (batch(&[b"one"]), batch(&[b"two"]));
        for at in 0..first.len() {
            let mut garbled = [first.clone(), last.clone()].concat();
            garbled[at] ^= 0x55;
            let is_number = (5..13).contains(&at);
            assert!(is_number || check(&garbled) == Found::Damaged { at: 0 }, "garbled at {at}");
        }
    }
}
