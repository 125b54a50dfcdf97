//! The header of an array of `NumPy`: a mark, a length, and a dictionary of three keys as Python writes
//! it. Read by an exact grammar; nothing is evaluated.

use super::super::Dtype;
use super::super::error::one_line;
use super::super::safetensors::MAX_RANK;

/// Bytes of mark, version and the longest form of the length.
pub(super) const N_FRONT: usize = 12;
/// Bytes of the longest header; `NumPy` itself refuses more than 10 000 unless told otherwise.
const MAX_HEADER: usize = 64 << 10;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) element: Element,
    /// Whether the first index runs fastest.
    pub(super) is_fortran: bool,
    pub(super) shape: Vec<usize>,
}

/// The type of the elements.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Element {
    Known {
        dtype: Dtype,
        is_big: bool,
        /// Whether it is called a run of bytes, as `NumPy` calls types that it does not know.
        is_opaque: bool,
    },
    /// One that is not read, and why.
    LeftOut(String),
}

/// Length of all that stands before the elements, by the first [`N_FRONT`] bytes.
pub(super) fn length(front: &[u8]) -> Result<usize, String> {
    let number = |n| front.get(8..n).map(<[u8]>::to_vec);
    let (n_front, n) = match front {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, 0, low, high, ..] => {
            (10_usize, usize::from(u16::from_le_bytes([*low, *high])))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, 0, ..] => {
            let bytes = number(N_FRONT).and_then(|bytes| bytes.try_into().ok());
            let n = bytes.map_or(u32::MAX, u32::from_le_bytes);
            (N_FRONT, usize::try_from(n).unwrap_or(usize::MAX))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', version, ..] => {
            return Err(format!("found version {version} of the format, expected 1 to 3"));
        }
        _ => return Err("found no NumPy mark, expected an array".to_owned()),
    };
    if n > MAX_HEADER {
        return Err(format!("found a header of {n} bytes, expected at most {MAX_HEADER}"));
    }
    Ok(n_front.saturating_add(n))
}

/// Parses what stands before the elements, as long as [`length`] said.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, String> {
    let n_front = if bytes.get(6) == Some(&1) { 10 } else { N_FRONT };
    let text = std::str::from_utf8(bytes.get(n_front..).unwrap_or_default());
    let text = text.map_err(|_| "found a header that is not UTF-8, expected a dictionary")?;
    let mut rest = Text(text);
    let broken = || {
        format!(
            "found header `{}`, expected descr, fortran_order and shape",
            one_line(text.trim_end())
        )
    };
    let header = rest.dictionary().ok_or_else(broken)?;
    let padding = rest.0.strip_suffix('\n').unwrap_or(rest.0);
    if padding.bytes().any(|byte| byte != b' ') {
        return Err(broken());
    }
    Ok(header)
}

/// What is left of a header.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// Takes those characters if they come next, blanks before them left aside.
    fn takes(&mut self, token: &str) -> bool {
        let rest = self.0.trim_start_matches(' ').strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Option<()> {
        self.takes(token).then_some(())
    }

    fn dictionary(&mut self) -> Option<Header> {
        let (mut element, mut is_fortran, mut shape) = (None, None, None);
        self.expect("{")?;
        while !self.takes("}") {
            let key = self.string()?;
            self.expect(":")?;
            let twice = match key {
                "descr" => element.replace(self.element()?).is_some(),
                "fortran_order" => is_fortran.replace(self.truth()?).is_some(),
                "shape" => shape.replace(self.shape()?).is_some(),
                _ => return None,
            };
            if twice {
                return None;
            }
            if !self.takes(",") {
                self.expect("}")?;
                break;
            }
        }
        Some(Header { element: element?, is_fortran: is_fortran?, shape: shape? })
    }

    /// A quoted text without escapes.
    fn string(&mut self) -> Option<&'a str> {
        let quote = ["'", "\""].into_iter().find(|quote| self.takes(quote))?;
        let (text, rest) = self.0.split_once(quote)?;
        self.0 = rest;
        (!text.contains('\\')).then_some(text)
    }

    fn truth(&mut self) -> Option<bool> {
        [("True", true), ("False", false)].into_iter().find(|(t, _)| self.takes(t)).map(|(_, b)| b)
    }

    fn shape(&mut self) -> Option<Vec<usize>> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.takes(")") {
            let text = self.0.trim_start_matches(' ');
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (digits, rest) = text.split_at_checked(end)?;
            shape.push(digits.parse().ok()?);
            // Python 2 wrote long integers so.
            self.0 = rest.strip_prefix('L').unwrap_or(rest);
            if shape.len() > MAX_RANK {
                return None;
            }
            if !self.takes(",") {
                // A tuple of one has a comma, else it is a number in brackets.
                self.expect(")").filter(|()| shape.len() > 1)?;
                break;
            }
        }
        Some(shape)
    }

    fn element(&mut self) -> Option<Element> {
        if self.takes("[") {
            self.skip_list()?;
            return Some(Element::LeftOut("its elements are records, no numbers".to_owned()));
        }
        Some(element(self.string()?))
    }

    /// Goes behind the end of a list whose start was taken.
    fn skip_list(&mut self) -> Option<()> {
        let (mut depth, mut quote) = (1_u32, None);
        for (at, c) in self.0.char_indices() {
            match (quote, c) {
                (Some(open), c) if open == c => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, '[' | '(' | '{') => depth = depth.saturating_add(1),
                (None, ']' | ')' | '}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                self.0 = self.0.get(at..)?.get(1..)?;
                return Some(());
            }
        }
        None
    }
}

/// A type by its name: order of the bytes, kind, width in bytes.
fn element(name: &str) -> Element {
    let (order, kind) = name.split_at_checked(1).unwrap_or(("", name));
    let left_out = || {
        let what = match kind.get(..1) {
            Some("O") => "objects of Python, which are pickled".to_owned(),
            Some("U" | "S") => "texts, no numbers".to_owned(),
            _ => format!("of type `{}`", one_line(name)),
        };
        Element::LeftOut(format!("its elements are {what}"))
    };
    let dtype = match kind {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        // ml_dtypes has one type of two bytes, and NumPy tells no more of it.
        "V2" => Dtype::BF16,
        "b1" => Dtype::Other("BOOL"),
        "u1" => Dtype::Other("U8"),
        "i1" => Dtype::Other("I8"),
        "u2" => Dtype::Other("U16"),
        "i2" => Dtype::Other("I16"),
        "u4" => Dtype::Other("U32"),
        "i4" => Dtype::Other("I32"),
        "u8" => Dtype::Other("U64"),
        "i8" => Dtype::Other("I64"),
        "c8" => Dtype::Other("C64"),
        "c16" => Dtype::Other("C128"),
        _ => return left_out(),
    };
    let is_big = match (order, dtype.bits()) {
        (_, 8) | ("<", _) => false,
        (">", _) => true,
        ("|", _) if kind == "V2" => false,
        _ => return left_out(),
    };
    Element::Known { dtype, is_big, is_opaque: kind == "V2" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 1.
    fn of(text: &str) -> Vec<u8> {
        let n = u16::try_from(text.len()).unwrap();
        [b"\x93NUMPY\x01\x00".as_slice(), &n.to_le_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let check = |text: &str, dtype, is_big, is_fortran, shape: &[usize]| {
            let bytes = of(text);
            assert_eq!(length(&bytes), Ok(bytes.len()));
            let is_opaque = dtype == Dtype::BF16;
            let element = Element::Known { dtype, is_big, is_opaque };
            assert_eq!(parse(&bytes), Ok(Header { element, is_fortran, shape: shape.to_vec() }));
        };
        let plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }      \n";
        check(plain, Dtype::F32, false, false, &[3, 4]);
        check("{'shape':(5,),'descr':'>f8','fortran_order':True}", Dtype::F64, true, true, &[5]);
        let scalar = "{'descr': \"<V2\", 'fortran_order': False, 'shape': (), }\n";
        check(scalar, Dtype::BF16, false, false, &[]);
        let old = "{'descr': '|b1', 'fortran_order': False, 'shape': (3L, 4L), }\n";
        check(old, Dtype::Other("BOOL"), false, false, &[3, 4]);
    }

    #[test]
    fn other_elements_are_left_out() {
        for descr in ["'|O'", "'<U3'", "'<f16'", "'|S8'", "'<V1'", "'f4'", "''", "'é'"] {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}\n");
            let header = parse(&of(&text)).unwrap();
            assert!(matches!(header.element, Element::LeftOut(_)), "{header:?}");
        }
        let records =
            "{'descr': [('a]', '<f4'), ('b', '<i4', (2,))], 'fortran_order': False, 'shape': (1,)}";
        assert!(matches!(parse(&of(records)).unwrap().element, Element::LeftOut(_)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "{}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
            "{'descr': __import__('os'), 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': [[[[, 'fortran_order': False, 'shape': (3,)}",
        ] {
            assert!(parse(&of(text)).is_err(), "{text}");
        }
        let deep = format!("{{'descr': {}", "[".repeat(60_000));
        assert!(parse(&of(&deep)).is_err());
        for front in [&b"\x93NUMPY\x04\x00\x10\x00"[..], b"\x93NUMPX\x01\x00", b"", &[0xff; 12]] {
            assert!(length(front).is_err());
        }
        assert!(length(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").is_err());
    }
}
