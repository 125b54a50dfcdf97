//! The names that a pickle may ask for. Nothing is looked up or called: a name is a number here.

use crate::checkpoint::Dtype;

/// A name from the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) struct Global(u16);

/// What is made of a name's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Kind {
    /// A mapping that keeps its items.
    Dict,
    /// A set, of which nothing is kept.
    Set,
    /// A tuple of whole numbers.
    Size,
    /// `(storage, offset, size, stride, …)`.
    Tensor,
    /// As `Tensor`, with the type at place 6, over a storage of bytes.
    TensorOfType,
    /// `(tensor, …)`.
    Parameter,
    /// `(function, type, arguments, state)`.
    TensorOfClass,
    /// A tensor that is no array of its elements (quantised, sparse, without storage).
    OtherTensor,
    /// A storage of elements of a type; of bytes if there is none.
    Storage(Option<Dtype>),
    /// A type of elements.
    Element(Dtype),
    /// Where the pieces of a distributed state lie.
    Metadata,
    /// Shape and pieces of one distributed tensor.
    TensorPlaces,
    /// A distributed value that is no tensor.
    BytesPlaces,
    /// Corner and size of one piece.
    ChunkPlace,
    /// Shape, type and layout of a distributed tensor.
    TensorProperties,
    /// Name, corner and number of one piece.
    MetadataIndex,
    /// File, offset and length of one piece.
    StorageInfo,
    /// Anything else that states carry along; name and arguments are kept and mean nothing.
    Inert,
}

use Kind::{
    BytesPlaces, ChunkPlace, Dict, Element, Inert, Metadata, MetadataIndex, OtherTensor, Parameter,
    Set, Size, Storage, StorageInfo, Tensor, TensorOfClass, TensorOfType, TensorPlaces,
    TensorProperties,
};

const I64: Dtype = Dtype::Other("I64");
const I32: Dtype = Dtype::Other("I32");
const I16: Dtype = Dtype::Other("I16");
const I8: Dtype = Dtype::Other("I8");
const U8: Dtype = Dtype::Other("U8");
const U16: Dtype = Dtype::Other("U16");
const U32: Dtype = Dtype::Other("U32");
const U64: Dtype = Dtype::Other("U64");
const BOOL: Dtype = Dtype::Other("BOOL");
const C64: Dtype = Dtype::Other("C64");
const C128: Dtype = Dtype::Other("C128");

const DCP: &str = "torch.distributed.checkpoint.metadata";

/// Module, name and meaning of every name that a pickle may ask for.
const GLOBALS: &[(&str, &str, Kind)] = &[
    ("collections", "OrderedDict", Dict),
    ("collections", "defaultdict", Dict),
    ("collections", "Counter", Dict),
    ("builtins", "dict", Dict),
    ("__builtin__", "dict", Dict),
    ("builtins", "set", Set),
    ("__builtin__", "set", Set),
    ("builtins", "frozenset", Set),
    ("__builtin__", "frozenset", Set),
    ("torch", "Size", Size),
    ("torch._utils", "_rebuild_tensor_v2", Tensor),
    ("torch._utils", "_rebuild_tensor", Tensor),
    ("torch._utils", "_rebuild_tensor_v3", TensorOfType),
    ("torch._utils", "_rebuild_parameter", Parameter),
    ("torch._utils", "_rebuild_parameter_with_state", Parameter),
    ("torch._tensor", "_rebuild_from_type_v2", TensorOfClass),
    ("torch._utils", "_rebuild_qtensor", OtherTensor),
    ("torch._utils", "_rebuild_sparse_tensor", OtherTensor),
    ("torch._utils", "_rebuild_sparse_csr_tensor", OtherTensor),
    ("torch._utils", "_rebuild_nested_tensor", OtherTensor),
    ("torch._utils", "_rebuild_meta_tensor_no_storage", OtherTensor),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", OtherTensor),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", Parameter),
    ("torch._utils", "_rebuild_wrapper_subclass", OtherTensor),
    ("torch", "DoubleStorage", Storage(Some(Dtype::F64))),
    ("torch", "FloatStorage", Storage(Some(Dtype::F32))),
    ("torch", "HalfStorage", Storage(Some(Dtype::F16))),
    ("torch", "BFloat16Storage", Storage(Some(Dtype::BF16))),
    ("torch", "LongStorage", Storage(Some(I64))),
    ("torch", "IntStorage", Storage(Some(I32))),
    ("torch", "ShortStorage", Storage(Some(I16))),
    ("torch", "CharStorage", Storage(Some(I8))),
    ("torch", "ByteStorage", Storage(Some(U8))),
    ("torch", "BoolStorage", Storage(Some(BOOL))),
    ("torch", "ComplexFloatStorage", Storage(Some(C64))),
    ("torch", "ComplexDoubleStorage", Storage(Some(C128))),
    ("torch", "QInt8Storage", Storage(Some(I8))),
    ("torch", "QUInt8Storage", Storage(Some(U8))),
    ("torch", "QInt32Storage", Storage(Some(I32))),
    ("torch.storage", "UntypedStorage", Storage(None)),
    ("torch", "UntypedStorage", Storage(None)),
    ("torch", "float64", Element(Dtype::F64)),
    ("torch", "float32", Element(Dtype::F32)),
    ("torch", "float16", Element(Dtype::F16)),
    ("torch", "bfloat16", Element(Dtype::BF16)),
    ("torch", "float8_e4m3fn", Element(Dtype::F8E4M3)),
    ("torch", "float8_e5m2", Element(Dtype::F8E5M2)),
    ("torch", "float8_e4m3fnuz", Element(Dtype::Other("F8_E4M3FNUZ"))),
    ("torch", "float8_e5m2fnuz", Element(Dtype::Other("F8_E5M2FNUZ"))),
    ("torch", "float8_e8m0fnu", Element(Dtype::Other("F8_E8M0"))),
    ("torch", "int64", Element(I64)),
    ("torch", "int32", Element(I32)),
    ("torch", "int16", Element(I16)),
    ("torch", "int8", Element(I8)),
    ("torch", "uint8", Element(U8)),
    ("torch", "uint16", Element(U16)),
    ("torch", "uint32", Element(U32)),
    ("torch", "uint64", Element(U64)),
    ("torch", "bool", Element(BOOL)),
    ("torch", "complex64", Element(C64)),
    ("torch", "complex128", Element(C128)),
    ("torch", "quint8", Inert),
    ("torch", "qint8", Inert),
    ("torch", "qint32", Inert),
    ("torch", "device", Inert),
    ("torch", "per_tensor_affine", Inert),
    ("torch", "per_channel_affine", Inert),
    ("torch", "strided", Inert),
    ("torch", "contiguous_format", Inert),
    ("torch", "preserve_format", Inert),
    ("torch", "channels_last", Inert),
    ("torch.serialization", "_get_layout", Inert),
    ("torch.nn.parameter", "Parameter", Inert),
    ("torch.nn.parameter", "Buffer", Inert),
    ("torch", "Tensor", Inert),
    (DCP, "Metadata", Metadata),
    (DCP, "TensorStorageMetadata", TensorPlaces),
    (DCP, "BytesStorageMetadata", BytesPlaces),
    (DCP, "ChunkStorageMetadata", ChunkPlace),
    (DCP, "TensorProperties", TensorProperties),
    (DCP, "MetadataIndex", MetadataIndex),
    (DCP, "StorageMeta", Inert),
    (DCP, "_MEM_FORMAT_ENCODING", Inert),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo", StorageInfo),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix", Inert),
    ("torch.distributed.checkpoint.filesystem", "SerializationFormat", Inert),
    ("olmo_core.distributed.checkpoint.filesystem", "_StorageInfo", StorageInfo),
    ("torch.distributed.checkpoint.planner", "SavePlan", Inert),
    ("torch.distributed.checkpoint.planner", "BytesIOWriteData", Inert),
    ("torch.distributed.checkpoint.planner", "TensorWriteData", Inert),
    ("torch.distributed.checkpoint.planner", "WriteItem", Inert),
    ("torch.distributed.checkpoint.planner", "WriteItemType", Inert),
    ("torch.distributed.checkpoint._extension", "StreamTransformExtension", Inert),
    ("torch.distributed.checkpoint.hf_storage", "_HFStorageInfo", StorageInfo),
    ("torch.distributed.checkpoint._hf_utils", "_HFStorageInfo", StorageInfo),
    ("torch.distributed._tensor.placement_types", "TensorMeta", Inert),
    // What trainers keep beside the weights.
    ("argparse", "Namespace", Inert),
    ("types", "SimpleNamespace", Inert),
    ("pathlib", "PosixPath", Inert),
    ("pathlib", "PurePosixPath", Inert),
    ("pathlib._local", "PosixPath", Inert),
    ("pathlib._local", "PurePosixPath", Inert),
    ("pathlib", "Path", Inert),
    ("pathlib", "WindowsPath", Inert),
    ("datetime", "datetime", Inert),
    ("datetime", "timedelta", Inert),
    ("_codecs", "encode", Inert),
    ("builtins", "bytearray", Inert),
    ("builtins", "complex", Inert),
    ("builtins", "slice", Inert),
    ("builtins", "range", Inert),
    ("builtins", "int", Inert),
    ("builtins", "float", Inert),
    ("builtins", "str", Inert),
    ("builtins", "bool", Inert),
    ("builtins", "list", Inert),
    ("builtins", "tuple", Inert),
    ("builtins", "object", Inert),
    ("builtins", "Ellipsis", Inert),
    // The same as protocol 2 writes them, which is torch's: under Python 2's names.
    ("__builtin__", "bytearray", Inert),
    ("__builtin__", "complex", Inert),
    ("__builtin__", "slice", Inert),
    ("__builtin__", "xrange", Inert),
    ("__builtin__", "long", Inert),
    ("__builtin__", "int", Inert),
    ("__builtin__", "float", Inert),
    ("__builtin__", "unicode", Inert),
    ("__builtin__", "str", Inert),
    ("__builtin__", "bool", Inert),
    ("__builtin__", "list", Inert),
    ("__builtin__", "tuple", Inert),
    ("__builtin__", "object", Inert),
    ("__builtin__", "Ellipsis", Inert),
    ("collections", "deque", Inert),
    ("functools", "partial", Inert),
    ("decimal", "Decimal", Inert),
    ("fractions", "Fraction", Inert),
    ("uuid", "UUID", Inert),
    ("datetime", "date", Inert),
    ("datetime", "time", Inert),
    ("datetime", "timezone", Inert),
    ("numpy", "dtype", Inert),
    ("numpy", "ndarray", Inert),
    ("numpy.core.multiarray", "scalar", Inert),
    ("numpy._core.multiarray", "scalar", Inert),
    ("numpy.core.multiarray", "_reconstruct", Inert),
    ("numpy._core.multiarray", "_reconstruct", Inert),
    ("numpy.core.numeric", "_frombuffer", Inert),
    ("numpy._core.numeric", "_frombuffer", Inert),
    ("lightning_fabric.utilities.data", "AttributeDict", Dict),
    ("lightning.fabric.utilities.data", "AttributeDict", Dict),
    ("pytorch_lightning.utilities.parsing", "AttributeDict", Dict),
    ("omegaconf.dictconfig", "DictConfig", Inert),
    ("omegaconf.listconfig", "ListConfig", Inert),
    ("omegaconf.base", "ContainerMetadata", Inert),
    ("omegaconf.base", "Metadata", Inert),
    ("omegaconf.nodes", "AnyNode", Inert),
    ("omegaconf.nodes", "BooleanNode", Inert),
    ("omegaconf.nodes", "FloatNode", Inert),
    ("omegaconf.nodes", "IntegerNode", Inert),
    ("omegaconf.nodes", "StringNode", Inert),
    ("typing", "Any", Inert),
    ("transformers.trainer_utils", "IntervalStrategy", Inert),
    ("transformers.trainer_utils", "SchedulerType", Inert),
    ("megatron.core.enums", "ModelType", Inert),
    ("megatron.core.transformer.enums", "AttnBackend", Inert),
    ("megatron.core.transformer.enums", "AttnMaskType", Inert),
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler", Inert),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler", Inert),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum", Inert),
    ("deepspeed.utils.tensor_fragment", "fragment_address", Inert),
];

impl Global {
    /// The number of a name on the list.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        let at = GLOBALS.iter().position(|(m, n, _)| *m == module && *n == name)?;
        u16::try_from(at).ok().map(Self)
    }

    pub(in crate::checkpoint) fn kind(self) -> Kind {
        GLOBALS.get(usize::from(self.0)).map_or(Inert, |(_, _, kind)| *kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_is_known_by_the_name_that_protocol_2_has_for_it() {
        for (_, name, kind) in GLOBALS.iter().filter(|(module, ..)| *module == "builtins") {
            let older = match *name {
                "int" => "long",
                "str" => "unicode",
                "range" => "xrange",
                same => same,
            };
            let known = Global::named("__builtin__", older).map(Global::kind);
            assert_eq!(known, Some(*kind), "{older}");
        }
    }

    #[test]
    fn names_are_matched_exactly_and_stand_once() {
        for (at, (module, name, _)) in GLOBALS.iter().enumerate() {
            assert_eq!(Global::named(module, name), u16::try_from(at).ok().map(Global));
        }
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("torch", "Size.x"),
            ("TORCH", "Size"),
            ("numpy", "load"),
            ("collections", "OrderedDict\0"),
        ] {
            assert_eq!(Global::named(module, name), None, "{module}.{name}");
        }
    }
}
