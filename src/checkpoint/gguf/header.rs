//! The header of GGUF: key and value, then the tensors, both counted in front.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Number, Value};
use xxhash_rust::xxh3::xxh3_128;

use super::super::error::shown;
use super::super::fill::Fill;
use super::super::one_file::Refusal;

/// Tensors of one file, and keys.
const MAX_COUNT: u64 = 65_536;
/// Bytes of all of the header; the largest vocabularies take some 15 MiB.
const MAX_HEADER: u64 = 64 << 20;
/// Bytes of a key or of a tensor's name; ggml has 64 for the latter.
const MAX_NAME: u64 = 128;
/// Bytes of a text that is kept.
const MAX_TEXT: u64 = 4096;
/// Dimensions of a tensor; ggml's own limit.
const MAX_RANK: u32 = 4;
/// Lists within lists.
const MAX_DEPTH: u32 = 4;
/// Values that are kept: numbers, truth values and short texts, none of the tokenizer's.
const MAX_KEPT: usize = 1024;
/// Bytes that are read at a time.
const BLOCK: u64 = 64 << 10;

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) tensors: Vec<Stated>,
    /// Bytes of the header itself.
    pub(super) n_bytes: u64,
}

/// A tensor as the header has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stated {
    pub(super) name: String,
    /// Dimensions, innermost first.
    pub(super) dims: Vec<u64>,
    pub(super) kind: u32,
    /// First byte, from the start of the data.
    pub(super) offset: u64,
}

/// Reads the header of a file of that size.
pub(super) fn read(fill: &mut Fill<'_>, size: u64) -> Result<Header, Refusal> {
    let mut input = Input { fill, size, next: 0, block: Vec::new(), at: 0 };
    let mark: [u8; 4] = input.bytes()?;
    if mark != *b"GGUF" {
        return Err(malformed(format!("found {mark:?} in front, expected GGUF")));
    }
    match input.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 2 | 3) => {
            let found = "a GGUF file of big-endian numbers, where little-endian ones are read";
            return Err(Refusal::NotWeights(found.to_owned()));
        }
        version => return Err(malformed(format!("found GGUF version {version}, expected 2 or 3"))),
    }
    let (n_tensors, n_values) = (input.u64()?, input.u64()?);
    if n_tensors > MAX_COUNT || n_values > MAX_COUNT {
        return Err(malformed(format!(
            "found {n_tensors} tensors and {n_values} keys, expected at most {MAX_COUNT} of each"
        )));
    }
    let mut header = Header::default();
    let mut seen = HashSet::new();
    for _ in 0..n_values {
        let key = input.name()?;
        if !seen.insert(xxh3_128(key.as_bytes())) {
            return Err(malformed(format!("found key {} twice, expected it once", shown(&key))));
        }
        let kind = input.u32()?;
        let is_kept = !key.starts_with("tokenizer.") && header.values.len() < MAX_KEPT;
        if let Some(value) = input.value(kind, 0)?.filter(|_| is_kept) {
            header.values.insert(key, value);
        }
    }
    seen.clear();
    for _ in 0..n_tensors {
        let name = input.name()?;
        if !seen.insert(xxh3_128(name.as_bytes())) {
            let text = format!("found tensor {} twice, expected each name once", shown(&name));
            return Err(malformed(text));
        }
        let rank = input.u32()?;
        if rank > MAX_RANK {
            return Err(malformed(format!(
                "found tensor {} of {rank} dimensions, expected at most {MAX_RANK}",
                shown(&name)
            )));
        }
        let dims = (0..rank).map(|_| input.u64()).collect::<Result<_, _>>()?;
        let (kind, offset) = (input.u32()?, input.u64()?);
        header.tensors.push(Stated { name, dims, kind, offset });
    }
    header.n_bytes = input.position();
    Ok(header)
}

fn malformed(reason: String) -> Refusal {
    Refusal::Malformed(reason)
}

/// The bytes of a header, in order and in blocks.
struct Input<'a, 'b> {
    fill: &'a mut Fill<'b>,
    size: u64,
    /// Where the next block begins.
    next: u64,
    block: Vec<u8>,
    at: usize,
}

impl Input<'_, '_> {
    fn position(&self) -> u64 {
        self.next.saturating_sub(self.block.len().saturating_sub(self.at) as u64)
    }

    /// Whether so many bytes more are there and are not too many.
    fn check(&self, n: u64) -> Result<(), Refusal> {
        let end = self.position().saturating_add(n);
        if end > MAX_HEADER {
            let text = format!("found a header of {end} bytes, expected at most {MAX_HEADER}");
            return Err(malformed(text));
        }
        if end > self.size {
            let text = format!("found {} bytes, expected a header of at least {end}", self.size);
            return Err(Refusal::Short(text));
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        self.check(N as u64)?;
        let mut bytes = [0; N];
        self.copy(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills a buffer that was checked.
    fn copy(&mut self, into: &mut [u8]) -> Result<(), Refusal> {
        let mut rest = into;
        while !rest.is_empty() {
            if self.at >= self.block.len() {
                let n = self.size.saturating_sub(self.next).min(BLOCK);
                self.block.resize(usize::try_from(n).unwrap_or(0), 0);
                (self.fill)(self.next, &mut self.block)?;
                (self.at, self.next) = (0, self.next.saturating_add(n));
            }
            let here = self.block.get(self.at..).unwrap_or_default();
            let n = here.len().min(rest.len());
            let (Some(to), Some(from)) = (rest.get_mut(..n), here.get(..n)) else { break };
            if n == 0 {
                break;
            }
            to.copy_from_slice(from);
            self.at = self.at.saturating_add(n);
            rest = rest.get_mut(n..).unwrap_or_default();
        }
        Ok(())
    }

    fn skip(&mut self, n: u64) -> Result<(), Refusal> {
        self.check(n)?;
        let to = self.position().saturating_add(n);
        if to >= self.next {
            self.block.clear();
            (self.at, self.next) = (0, to);
        } else {
            self.at = self.at.saturating_add(usize::try_from(n).unwrap_or(0));
        }
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refusal> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn text(&mut self, n: u64) -> Result<String, Refusal> {
        self.check(n)?;
        let mut bytes = vec![0; usize::try_from(n).unwrap_or(0)];
        self.copy(&mut bytes)?;
        String::from_utf8(bytes)
            .map_err(|_| malformed("found a text that is not UTF-8 in the header".to_owned()))
    }

    fn name(&mut self) -> Result<String, Refusal> {
        let n = self.u64()?;
        if n > MAX_NAME {
            let text = format!("found a name of {n} bytes, expected at most {MAX_NAME}");
            return Err(malformed(text));
        }
        self.text(n)
    }

    /// A value of that kind; `None` for what is not kept.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Option<Value>, Refusal> {
        Ok(match kind {
            0 => self.bytes::<1>()?.first().map(|n| (*n).into()),
            1 => self.bytes::<1>()?.first().map(|n| n.cast_signed().into()),
            2 => Some(u16::from_le_bytes(self.bytes()?).into()),
            3 => Some(i16::from_le_bytes(self.bytes()?).into()),
            4 => Some(self.u32()?.into()),
            5 => Some(i32::from_le_bytes(self.bytes()?).into()),
            6 => Number::from_f64(f32::from_le_bytes(self.bytes()?).into()).map(Value::Number),
            7 => match self.bytes()? {
                [0] => Some(false.into()),
                [1] => Some(true.into()),
                [other] => {
                    return Err(malformed(format!("found truth value {other}, expected 0 or 1")));
                }
            },
            8 => {
                let n = self.u64()?;
                if n <= MAX_TEXT {
                    Some(self.text(n)?.into())
                } else {
                    self.skip(n)?;
                    None
                }
            }
            9 => {
                self.skip_list(depth)?;
                None
            }
            10 => Some(self.u64()?.into()),
            11 => Some(i64::from_le_bytes(self.bytes()?).into()),
            12 => Number::from_f64(f64::from_le_bytes(self.bytes()?)).map(Value::Number),
            other => {
                return Err(malformed(format!("found a value of kind {other}, expected 0 to 12")));
            }
        })
    }

    fn skip_list(&mut self, depth: u32) -> Result<(), Refusal> {
        let (kind, n) = (self.u32()?, self.u64()?);
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            // Each takes eight bytes at least, so the size bounds the turns.
            8 => {
                for _ in 0..n {
                    let n = self.u64()?;
                    self.skip(n)?;
                }
                return Ok(());
            }
            9 if depth < MAX_DEPTH => {
                for _ in 0..n {
                    self.skip_list(depth.saturating_add(1))?;
                }
                return Ok(());
            }
            other => {
                return Err(malformed(format!("found a list of kind {other}, expected 0 to 12")));
            }
        };
        self.skip(n.saturating_mul(width))
    }
}
