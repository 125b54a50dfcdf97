//! The layouts of frameworks, and what only looks like one.

use std::fs;
use std::os::unix::fs::symlink;

use super::{check, look, tree};

#[test]
fn parts_of_a_save_lie_in_directories_of_its_framework() {
    check(
        &[
            "olmo/step5/model_and_optim/__0_0.distcp",
            "olmo/step5/model_and_optim/.metadata",
            "olmo/step5/train/rank0.pt",
            "olmo/step5/.metadata.json",
            "megatron/iter_0000100/mp_rank_00/model_optim_rng.pt",
            "megatron/iter_0000100/mp_rank_00/distrib_optim.pt",
            "megatron/iter_0000100/mp_rank_01_000/model_optim_rng.pt",
            "megatron/iter_0000200/__0_0.distcp",
            "megatron/iter_0000200/.metadata",
            "megatron/iter_0000200/common.pt",
            "megatron/iter_0000200/metadata.json",
            "megatron/latest_checkpointed_iteration.txt",
            "ds/global_step7/mp_rank_00_model_states.pt",
            "ds/global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "ds/global_step8/zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "ds/latest",
            "ds/zero_to_fp32.py",
            "hf/checkpoint-9/model.safetensors",
            "hf/checkpoint-9/pytorch_model_fsdp_0/__0_0.distcp",
            "hf/checkpoint-9/pytorch_model_fsdp_0/.metadata",
            "hf/checkpoint-9/optimizer_0/__0_0.distcp",
            "hf/checkpoint-9/optimizer_0/.metadata",
            "hf/final/pytorch_model_fsdp_0/__0_0.distcp",
            "hf/final/pytorch_model_fsdp_0/.metadata",
            "pl/epoch=0-step=3.ckpt/__0_0.distcp",
            "pl/epoch=0-step=3.ckpt/.metadata",
            "pl/epoch=0-step=3.ckpt/meta.pt",
            "nemo/model--val_loss=1.20-step=99/weights/__0_0.distcp",
            "nemo/model--val_loss=1.20-step=99/weights/.metadata",
            "nemo/model--val_loss=1.20-step=99/context/model.yaml",
            "accelerate/checkpoint_0/model.safetensors",
            "accelerate/checkpoint_0/optimizer.bin",
            "accelerate/checkpoint_0/random_states_0.pkl",
        ],
        &[
            "accelerate 0 accelerate/checkpoint_0 [model.safetensors random_states_0.pkl]",
            "ds 7 ds/global_step7 [mp_rank_00_model_states.pt \
             zero_pp_rank_0_mp_rank_00_optim_states.pt]",
            "hf 9 hf/checkpoint-9 [model.safetensors pytorch_model_fsdp_0/.metadata \
             pytorch_model_fsdp_0/__0_0.distcp]",
            "hf/final - hf/final in-place [pytorch_model_fsdp_0/__0_0.distcp \
             pytorch_model_fsdp_0/.metadata]",
            "megatron 100 megatron/iter_0000100 [mp_rank_00/model_optim_rng.pt \
             mp_rank_01_000/model_optim_rng.pt]",
            "megatron 200 megatron/iter_0000200 [.metadata __0_0.distcp metadata.json]",
            "nemo/model-val_loss 99 nemo/model--val_loss=1.20-step=99 [weights/.metadata \
             weights/__0_0.distcp]",
            "olmo 5 olmo/step5 [.metadata.json model_and_optim/.metadata \
             model_and_optim/__0_0.distcp]",
            "pl 3 pl/epoch=0-step=3.ckpt [.metadata __0_0.distcp meta.pt]",
        ],
    );
}

#[test]
fn plain_numbers_are_steps_where_orbax_wrote_them() {
    check(
        &[
            "a/10/_CHECKPOINT_METADATA",
            "a/10/commit_success.txt",
            "a/10/default/manifest.ocdbt",
            "a/10/default/_METADATA",
            "a/10/default/d/0123",
            "a/10/default/ocdbt.process_0/d/4567",
            "a/10/default/ocdbt.process_0/manifest.ocdbt",
            "a/11.orbax-checkpoint-tmp/default/d/0123",
            "a/9/default/manifest.ocdbt",
            "a/9/default/d/0123",
            "b/2/step-5/model.safetensors",
            "b/3/notes.txt",
            "c/7/params/0.0",
        ],
        &[
            "a 9 a/9 [default/d/0123 default/manifest.ocdbt]",
            "a 10 a/10 [_CHECKPOINT_METADATA commit_success.txt default/d/0123 \
             default/manifest.ocdbt default/ocdbt.process_0/d/4567 \
             default/ocdbt.process_0/manifest.ocdbt]",
            "b/2 5 b/2/step-5 [model.safetensors]",
        ],
    );
}

#[test]
fn a_run_may_be_called_as_the_half_of_a_save_is() {
    check(
        &[
            "sharded/checkpoint-5/model.safetensors",
            "titan/ckpt/sharded/shard-00001-model-00001-of-00002.safetensors",
            "titan/ckpt/model-00001-of-00002.safetensors",
            "titan/ckpt/model.safetensors.index.json",
        ],
        &[
            "sharded 5 sharded/checkpoint-5 [model.safetensors]",
            "titan/ckpt - titan/ckpt in-place [model-00001-of-00002.safetensors model.safetensors.index.json]",
        ],
    );
}

#[test]
fn sets_of_data_are_no_saves() {
    let data: Vec<String> = (0..70).map(|i| format!("features/sample_{i}.npz")).collect();
    let mut paths: Vec<&str> = data.iter().map(String::as_str).collect();
    paths.extend(["data/train.bin", "runs/epoch5.pt", "runs/optimizer.pt", "runs/rng_state.pth"]);
    check(&paths, &["runs 5 runs/epoch5.pt [epoch5.pt]"]);
}

#[test]
fn pointers_are_read_where_saves_are_and_only_if_they_are_small_files() {
    let (_temp, root) = tree(&["ds/global_step7/mp_rank_00_model_states.pt", "x/latest"]);
    fs::write(root.join("ds/latest"), "global_step7\n").unwrap();
    let outcome = look(&root);
    let told: Vec<_> = outcome.pointers.iter().map(|pointer| pointer.text.as_str()).collect();
    assert_eq!(told, ["global_step7"]);
    assert_eq!(outcome.pointers[0].directory, root.join("ds"));
    fs::write(root.join("ds/latest"), [b'1'; 65]).unwrap();
    assert!(look(&root).pointers.is_empty());
    fs::remove_file(root.join("ds/latest")).unwrap();
    symlink("../x/latest", root.join("ds/latest")).unwrap();
    assert!(look(&root).pointers.is_empty());
    fs::remove_file(root.join("ds/latest")).unwrap();
    let fifo = root.join("ds/latest");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    assert!(look(&root).pointers.is_empty());
}
