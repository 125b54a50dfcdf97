//! Files around what is fed: the rest of them is as it should be.

/// A zip archive of stored entries, as `torch.save` and `NumPy` write them: sizes in front of the data and
/// in the list, check sums of 0.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = narrow(out.len());
        let (n_name, n_data) = (narrow(name.len()).to_le_bytes(), narrow(data.len()).to_le_bytes());
        // Version, flags, method, time, date, sum, both sizes, length of the name, nothing behind it.
        let mut head = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        head.extend(n_data);
        head.extend(n_data);
        head.extend(&n_name[..2]);
        head.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&head);
        out.extend(name.as_bytes());
        out.extend(*data);
        list.extend(b"PK\x01\x02\x14\0");
        list.extend(&head);
        list.extend([0; 10]);
        list.extend(at.to_le_bytes());
        list.extend(name.as_bytes());
    }
    let (at, n_list) = (narrow(out.len()), narrow(list.len()));
    let n = narrow(entries.len()).to_le_bytes();
    out.extend(list);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(&n[..2]);
    out.extend(&n[..2]);
    out.extend(n_list.to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("inputs are small")
}

/// Storages of 96 bytes each: 24 elements of four bytes, 48 of two, 12 of eight.
const STORAGE: [u8; 96] = [0x3f; 96];

/// What `torch.save` writes around a pickle.
pub(crate) fn torch(pickle: &[u8]) -> Vec<u8> {
    let names = ["0", "1", "2", "3", "4", "5", "6", "7"].map(|key| format!("archive/data/{key}"));
    let mut entries: Vec<(&str, &[u8])> =
        vec![("archive/data.pkl", pickle), ("archive/byteorder", b"little")];
    entries.extend(names.iter().map(|name| (name.as_str(), STORAGE.as_slice())));
    entries.push(("archive/version", b"3\n"));
    zip(&entries)
}

/// Instructions that make a tensor of 4 × 6 float32 in storage 0.
const TENSOR: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
X\x01\0\0\x000X\x03\0\0\0cpuK\x18tQK\0K\x04K\x06\x86K\x06K\x01\x86\x89ccollections\nOrderedDict\n)RtR";

/// The pickle of that tensor.
pub(crate) fn lone_tensor() -> Vec<u8> {
    [b"\x80\x02", TENSOR, b"."].concat()
}

/// The pickle of a state that holds it under a name.
pub(crate) fn state(name: &str) -> Vec<u8> {
    let n_name = narrow(name.len()).to_le_bytes();
    [b"\x80\x02}X", &n_name[..], name.as_bytes(), TENSOR, b"s."].concat()
}

/// A safetensors file of float32 tensors of one value each.
pub(crate) fn safetensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut n = 0;
    for (name, shape) in tensors {
        let n_bytes = 4 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [n, n + n_bytes]});
        header.insert((*name).to_owned(), entry);
        n += n_bytes;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + n, 0x3f);
    out
}
