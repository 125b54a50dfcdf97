//! Pickles and archives put together by hand, right or wrong.

/// A pickle, instruction after instruction.
#[derive(Debug, Clone)]
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn op(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(crate) fn times(mut self, n: usize, bytes: impl AsRef<[u8]>) -> Self {
        for _ in 0..n {
            self.0.extend_from_slice(bytes.as_ref());
        }
        self
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n"))
    }

    pub(crate) fn text(self, text: &str) -> Self {
        let n = u32::try_from(text.len()).unwrap();
        self.op(b"X").op(n.to_le_bytes()).op(text)
    }

    pub(crate) fn int(self, n: i64) -> Self {
        self.op(b"\x8a\x08").op(n.to_le_bytes())
    }

    pub(crate) fn ints(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.op(b"("), |pickle, n| pickle.int(*n)).op(b"t")
    }

    /// A tensor in the storage `key` of `class` that states so many elements.
    pub(crate) fn tensor(
        self,
        (class, key, n): (&str, &str, i64),
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Self {
        let of_storage =
            self.global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage");
        let of_storage = of_storage.global("torch", class).text(key).text("cpu").int(n).op(b"tQ");
        let of_view = of_storage.int(offset).ints(shape).ints(strides);
        of_view.op(b"\x89").global("collections", "OrderedDict").op(b")RtR")
    }

    /// `{"weight": tensor}` with a tensor of 2 × 3 numbers, the dictionary on top.
    pub(crate) fn state(self) -> Self {
        self.op(b"}").text("weight").tensor(("FloatStorage", "0", 6), 0, &[2, 3], &[3, 1]).op(b"s")
    }

    pub(crate) fn stop(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// The six numbers of [`Pickle::state`].
pub(crate) const NUMBERS: [f32; 6] = [1.0, -2.0, 3.5, 0.25, -0.125, 6.0];

pub(crate) fn little() -> Vec<u8> {
    NUMBERS.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn big() -> Vec<u8> {
    NUMBERS.iter().flat_map(|x| x.to_be_bytes()).collect()
}

/// One record of an archive, and what its two headers say of it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) name: Vec<u8>,
    pub(crate) local_name: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) local_method: u16,
    /// What is added to the size that the list states.
    pub(crate) more: u32,
    /// Where the list says that it begins, if not where it does.
    pub(crate) at: Option<u32>,
}

impl Record {
    pub(crate) fn new(name: &str, data: &[u8]) -> Self {
        let name = name.as_bytes().to_vec();
        Self {
            local_name: name.clone(),
            name,
            data: data.to_vec(),
            flags: 0,
            method: 0,
            local_method: 0,
            more: 0,
            at: None,
        }
    }
}

/// What `torch.save` writes around that pickle and the numbers.
pub(crate) fn records(pickle: &[u8], byte_order: &str, data: &[u8]) -> Vec<Record> {
    vec![
        Record::new("a/data.pkl", pickle),
        Record::new("a/byteorder", byte_order.as_bytes()),
        Record::new("a/data/0", data),
        Record::new("a/version", b"3\n"),
    ]
}

/// The end of an archive: number of entries, bytes of the list, and its place.
pub(crate) fn end(n: u16, n_bytes: u32, at: u32) -> Vec<u8> {
    let n = n.to_le_bytes();
    [&b"PK\x05\x06\0\0\0\0"[..], &n, &n, &n_bytes.to_le_bytes(), &at.to_le_bytes(), &[0, 0]]
        .concat()
}

/// The records and their list, and the three numbers of its end.
pub(crate) fn body(records: &[Record]) -> (Vec<u8>, (u16, u32, u32)) {
    let (mut file, mut list) = (Vec::new(), Vec::new());
    for record in records {
        let at = u32::try_from(file.len()).unwrap();
        let n = u32::try_from(record.data.len()).unwrap();
        let header = |name: &[u8], method: u16, n: u32| {
            let n_name = u16::try_from(name.len()).unwrap().to_le_bytes();
            let (flags, method, n) =
                (record.flags.to_le_bytes(), method.to_le_bytes(), n.to_le_bytes());
            [&[20, 0][..], &flags, &method, &[0; 8], &n, &n, &n_name, &[0, 0]].concat()
        };
        file.extend(
            [
                b"PK\x03\x04",
                &header(&record.local_name, record.local_method, n)[..],
                &record.local_name,
                &record.data,
            ]
            .concat(),
        );
        let at = record.at.unwrap_or(at).to_le_bytes();
        let listed = header(&record.name, record.method, n + record.more);
        list.extend([b"PK\x01\x02\x14\0", &listed[..], &[0; 10], &at, &record.name].concat());
    }
    let place = (
        u16::try_from(records.len()).unwrap(),
        u32::try_from(list.len()).unwrap(),
        u32::try_from(file.len()).unwrap(),
    );
    file.extend(list);
    (file, place)
}

pub(crate) fn zip(records: &[Record]) -> Vec<u8> {
    let (mut file, (n, n_bytes, at)) = body(records);
    file.extend(end(n, n_bytes, at));
    file
}

/// An archive with that pickle and the six numbers.
pub(crate) fn archive(pickle: &[u8]) -> Vec<u8> {
    zip(&records(pickle, "little", &little()))
}

/// A large-archive record that states other numbers than the short one.
pub(crate) fn zip64(records: &[Record], wrong: u64) -> Vec<u8> {
    let (mut file, (n, n_bytes, at)) = body(records);
    let place = file.len() as u64;
    let wide = [u64::from(n), u64::from(n), u64::from(n_bytes), u64::from(at) + wrong]
        .map(u64::to_le_bytes)
        .concat();
    file.extend(
        [&b"PK\x06\x06"[..], &44_u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8], &wide].concat(),
    );
    file.extend([&b"PK\x06\x07\0\0\0\0"[..], &place.to_le_bytes(), &1_u32.to_le_bytes()].concat());
    file.extend(end(n, n_bytes, at));
    file
}

/// The older format: what the machine was, the pickle, the keys of the storages, and one storage.
pub(crate) fn legacy(pickle: &[u8], is_little: bool, n: u64, data: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let protocol = b"\x80\x02M\xe9\x03.";
    let system =
        Pickle::new().op(b"}(").text("protocol_version").op(b"M\xe9\x03").text("little_endian");
    let system = system.op(if is_little { b"\x88" } else { b"\x89" }).op(b"u").stop();
    let keys = Pickle::new().op(b"]").text("0").op(b"a").stop();
    [&magic[..], protocol, &system, pickle, &keys, &n.to_le_bytes(), data].concat()
}
