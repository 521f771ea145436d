//! Every fault of a disk is a miss, counted under its name.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use common::world::{FILE_BYTES, FOLDER, World, assert_quarantined, count, noon};
use common::{compute_all, prompt};
use foretoken_cache::disk::file_system::FileSystem;
use foretoken_cache::disk::ram_file_system::{Injected, Verb};
use foretoken_cache::{Fault, Fingerprint, ServerSecret};

#[test]
fn a_file_cut_short_anywhere_is_a_miss() {
    for cut in [0, 1, 511, 512, 513, FILE_BYTES as usize - 1] {
        let world = World::new();
        let tier = world.open();
        let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| bytes.truncate(cut)));
        assert_quarantined(&world, &tier, hits, Fault::Torn);
    }
}

#[test]
fn a_file_that_is_too_long_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| bytes.push(0)));
    assert_quarantined(&world, &tier, hits, Fault::Torn);
}

#[test]
fn a_write_torn_by_a_power_cut_is_a_miss() {
    let (world, tokens) = (World::new(), prompt(1, 1));
    world.fs.inject(|verb, _| (verb == Verb::Write).then_some(Injected::Tears(1000)));
    world.write(&world.open(), &tokens);
    world.fs.heal();
    let tier = world.open();
    assert_eq!(world.read(&tier, &tokens), 0);
    assert_eq!(tier.stats().faults, [(Fault::Torn, 1)]);
}

#[test]
fn a_flipped_bit_anywhere_is_a_miss() {
    for at in [12, 100, 300, 450, 511, 512, 2000, FILE_BYTES as usize - 1] {
        let world = World::new();
        let tier = world.open();
        let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| bytes[at] ^= 0x10));
        assert_quarantined(&world, &tier, hits, Fault::Corrupt);
    }
}

#[test]
fn a_foreign_file_under_our_name_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| *bytes = vec![b'x'; 9000]));
    assert_quarantined(&world, &tier, hits, Fault::Foreign);
}

#[test]
fn a_block_of_another_model_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let other = ServerSecret::new([9; 32]).scope("alice", Fingerprint::of(&[("weights", b"other")]));
    let tokens = prompt(1, 3);
    let blocks = compute_all(&world.pool, &other, &tokens);
    tier.write(&blocks[1]);
    tier.flush();
    let foreign = world.fs.files(Path::new(FOLDER)).remove(0);
    let mut copy = Vec::new();
    world.fs.edit(&foreign, |bytes| copy.clone_from(bytes));
    let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| *bytes = copy));
    assert_quarantined(&world, &tier, hits, Fault::WrongFingerprint);
}

#[test]
fn a_block_of_another_prefix_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let tokens = prompt(1, 3);
    let third = world.paths(&tokens).remove(2);
    let hits = world.spoiled(&tier, |path| {
        let mut copy = Vec::new();
        world.fs.edit(&third, |bytes| copy.clone_from(bytes));
        world.fs.edit(path, |bytes| *bytes = copy);
    });
    assert_quarantined(&world, &tier, hits, Fault::WrongTokens);
}

#[test]
fn a_block_of_another_format_is_a_miss_and_stays_on_disk() {
    let world = World::new();
    let tier = world.open();
    let mut file = PathBuf::new();
    let hits = world.spoiled(&tier, |path| {
        file = path.to_path_buf();
        world.fs.edit(path, |bytes| bytes[8] = 99);
    });
    assert_eq!((hits, tier.stats().faults), (1, vec![(Fault::OtherVersion, 1)]));
    assert!(world.fs.files(Path::new(FOLDER)).contains(&file));
}

#[test]
fn files_with_foreign_names_are_left_alone() {
    let world = World::new();
    let stray = Path::new("/cache/00/notes.txt");
    world.fs.create_folders(Path::new("/cache/00")).unwrap();
    world.fs.edit(stray, |bytes| bytes.extend(b"mine"));
    let tier = world.open();
    assert_eq!(count(&tier, Fault::Foreign), 1);
    assert_eq!(tier.verify().foreign, [stray]);
    assert_eq!(world.fs.files(Path::new(FOLDER)), [stray]);
}

fn write_fails(kind: ErrorKind, fault: Fault) {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.fs.inject(move |verb, _| {
        let writes = matches!(verb, Verb::Write | Verb::CreateFolders);
        writes.then_some(Injected::Fails(kind))
    });
    world.write(&tier, &tokens);
    let stats = tier.stats();
    assert_eq!((stats.faults, stats.dropped_failed, stats.dropped_paused), (vec![(fault, 1)], 1, 2));
    assert_eq!(world.read(&tier, &tokens), 0);

    world.fs.heal();
    world.clock.advance(Duration::from_secs(60));
    world.write(&tier, &tokens);
    assert_eq!(world.read(&tier, &tokens), 3, "once the disk works again");
}

#[test]
fn a_full_disk_drops_blocks_and_is_not_tried_for_each() {
    write_fails(ErrorKind::StorageFull, Fault::NoSpace);
}

#[test]
fn a_read_only_disk_drops_blocks() {
    write_fails(ErrorKind::ReadOnlyFilesystem, Fault::ReadOnly);
}

#[test]
fn a_folder_that_may_not_be_written_drops_blocks() {
    write_fails(ErrorKind::PermissionDenied, Fault::Denied);
}

#[test]
fn a_disk_that_fills_up_inside_a_file_leaves_no_partial_file() {
    let (world, tokens) = (World::new(), prompt(1, 1));
    let tier = world.open();
    world.fs.inject(|verb, _| (verb == Verb::Rename).then_some(Injected::Fails(ErrorKind::StorageFull)));
    world.write(&tier, &tokens);
    assert_eq!(world.fs.files(Path::new(FOLDER)), [] as [PathBuf; 0]);
}

#[test]
fn a_read_only_disk_still_serves_what_it_has() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    world.write(&world.open(), &tokens);
    world.fs.inject(|verb, _| {
        let changes = !matches!(verb, Verb::Read | Verb::List | Verb::Meta);
        changes.then_some(Injected::Fails(ErrorKind::ReadOnlyFilesystem))
    });
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(world.read(&world.open(), &tokens), 3);
}

#[test]
fn a_bad_file_that_cannot_be_moved_is_read_once() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| {
        world.fs.edit(path, |bytes| bytes[1000] ^= 1);
        world.fs.inject(|verb, _| {
            let changes = matches!(verb, Verb::Rename | Verb::Remove | Verb::CreateFolders);
            changes.then_some(Injected::Fails(ErrorKind::ReadOnlyFilesystem))
        });
    });
    assert_eq!((hits, tier.stats().faults), (1, vec![(Fault::Corrupt, 1)]));
}

#[test]
fn files_that_may_not_be_read_are_misses() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.fs.inject(|verb, _| (verb == Verb::Read).then_some(Injected::Fails(ErrorKind::PermissionDenied)));
    assert_eq!(world.read(&tier, &tokens), 0);
    assert_eq!(tier.stats().faults, [(Fault::Denied, 1)]);
}

#[test]
fn a_folder_without_search_permission_only_misses() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    world.fs.inject(|_, _| Some(Injected::Fails(ErrorKind::PermissionDenied)));
    let tier = world.open();
    world.write(&tier, &tokens);
    assert_eq!(world.read(&tier, &tokens), 0);
    assert!(count(&tier, Fault::Denied) > 0);
}

#[test]
fn a_file_that_vanished_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| world.fs.remove(path).unwrap());
    assert_eq!((hits, tier.stats().faults), (1, vec![(Fault::Vanished, 1)]));
}

#[test]
fn a_folder_deleted_while_running_misses_and_is_created_again() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.fs.remove_folder(Path::new(FOLDER));
    assert_eq!(world.read(&tier, &tokens), 0);
    assert_eq!(tier.stats().faults, [(Fault::FolderMissing, 1)]);
    let other = prompt(2, 3);
    world.write(&tier, &other);
    assert_eq!(world.read(&tier, &other), 3);
}

#[test]
fn a_clock_that_goes_back_is_counted_and_changes_no_answer() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.clock.set_wall(noon() - Duration::from_secs(86_400));
    assert_eq!(world.read(&tier, &tokens), 3, "the tier that was open");
    drop(tier);
    let tier = world.open();
    assert_eq!(world.read(&tier, &tokens), 3, "a tier opened in the past");
    drop(tier);
    world.fs.touch(&world.paths(&tokens)[0], noon()).unwrap();
    let tier = world.open();
    for _ in 0..2000 {
        if count(&tier, Fault::ClockBack) == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the lister did not count a time in the future");
}

#[test]
fn a_clock_that_goes_back_does_not_reverse_the_order_of_use() {
    let world = World::new();
    let tier = world.open_with(|config| config.budget_bytes = 2 * FILE_BYTES);
    world.write(&tier, &prompt(1, 1));
    world.clock.advance(Duration::from_secs(10));
    world.clock.set_wall(UNIX_EPOCH);
    world.write(&tier, &prompt(2, 1));
    world.clock.advance(Duration::from_secs(10));
    world.write(&tier, &prompt(3, 1));
    let left: Vec<_> = (1..4).map(|seed| world.read(&tier, &prompt(seed, 1))).collect();
    assert_eq!(left[0], 0);
    assert_eq!(left[2], 1);
}
