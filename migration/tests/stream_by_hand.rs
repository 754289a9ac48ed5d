//! Splitting and joining of hand-made streams, and every way in which one can be wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod stream_support;

use migration::stream::{Error, MemoryTemplate, SparseTemplate, Split, join, split};
use stream_support::{Add, Bytes, PAGE, RAM_ID, blocks, page, sample};

fn split_bytes(bytes: &Bytes) -> Result<(MemoryTemplate, Vec<u8>, Split), Error> {
    let (mut template, mut device) = (MemoryTemplate::default(), Vec::new());
    let split = split(&bytes.0[..], "cram", &mut template, &mut device)?;
    Ok((template, device, split))
}

fn error_of(bytes: &Bytes) -> Error {
    split_bytes(bytes).expect_err("a wrong stream")
}

/// A stream up to the first page of the first part.
fn opened() -> Bytes {
    let mut bytes = Bytes::header("pc-q35-10.0");
    bytes.start(&blocks()).close().go_on(2);
    bytes
}

#[test]
fn pages_of_the_memory_block_leave_and_all_else_stays_in_order() {
    let (template, device, split) = split_bytes(&sample()).unwrap();
    let mut left = Bytes::header("pc-q35-10.0");
    left.start(&blocks()).close().go_on(2);
    left.page(Some("pc.bios"), 0, Some(&page(9))).page(None, 4096, None).close().raw(&[8, 0, 11, 0, 0]);
    left.go_on(3).flush().page(Some("vga.rom"), 0, Some(&page(77))).close();
    left.device(3, "timer", &[1; 40]).device(4, "cpu", &[0x7e; 300]).finish();
    assert_eq!(device, left.0);
    assert_eq!(template.page(0), &page(4), "the later of two");
    assert_eq!(template.page(8192), &page(0), "a page that became zero");
    let wanted = Split {
        template_bytes: 8 * PAGE as u64,
        used_pages: 1,
        zero_pages: 3,
        sent_pages: 6,
        device_bytes: left.0.len() as u64,
        machine: "pc-q35-10.0".to_owned(),
    };
    assert_eq!(split, wanted);
}

#[test]
fn joined_streams_have_every_page_of_the_memory_block_once() {
    let (template, device, _) = split_bytes(&sample()).unwrap();
    let mut full = Vec::new();
    let joined = join(&device[..], "cram", &template, &mut full).unwrap();
    assert_eq!((joined.used_pages, joined.zero_pages, joined.stream_bytes), (1, 7, full.len() as u64));
    let (template_again, device_again, split) = split_bytes(&Bytes(full)).unwrap();
    assert_eq!((template_again, device_again), (template, device));
    assert_eq!((split.sent_pages, split.zero_pages), (8, 7));
}

#[test]
fn template_files_are_sparse_and_hold_what_was_sent_last() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory.template");
    let mut bytes = Bytes::header("pc-q35-10.0");
    let block_bytes = 64 << 20;
    bytes.start(&[("cram".to_owned(), block_bytes)]).close().go_on(3);
    bytes.page(Some("cram"), 0, Some(&page(1)));
    for index in (3..600).chain([9000, 9001, 3, 9000]) {
        bytes.page(None, index * PAGE as u64, Some(&page((index % 250) as u8 + 1)));
    }
    bytes.page(None, 9001 * PAGE as u64, None).page(None, 12000 * PAGE as u64, None).close().finish();

    let mut template = SparseTemplate::create(&path).unwrap();
    let split = split(&bytes.0[..], "cram", &mut template, &mut Vec::new()).unwrap();
    assert_eq!((split.used_pages, split.zero_pages, split.sent_pages), (599, 2, 604));
    drop(template);
    let content = std::fs::read(&path).unwrap();
    let (in_memory, ..) = split_bytes(&bytes).unwrap();
    assert_eq!(content.len() as u64, block_bytes);
    for (found, index) in content.chunks(PAGE).zip(0..) {
        assert!(found == in_memory.page(index * PAGE as u64), "page {index}");
    }
    let used = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap()) * 512;
    assert!(used < 4 << 20, "{used} bytes of the disk for 600 pages");
    assert!(SparseTemplate::create(&path).is_err(), "an existing template is never overwritten");
}

#[test]
fn every_cut_is_found_and_its_offset_said() {
    let whole = sample();
    for length in 0..whole.0.len() {
        let error = error_of(&Bytes(whole.0[..length].to_vec()));
        assert!(matches!(error, Error::Truncated { .. }), "cut at {length}: {error}");
        assert_eq!(error.offset(), length as u64, "{error}");
    }
}

#[test]
fn other_files_and_versions_are_refused() {
    let mut elf = sample();
    elf.0[..4].copy_from_slice(b"\x7fELF");
    assert!(matches!(error_of(&elf), Error::NotAStream { at: 0, found: 0x7f45_4c46, .. }));
    let mut old = sample();
    old.0[7] = 2;
    assert!(matches!(error_of(&old), Error::NotAStream { at: 4, found: 2, .. }));
    let mut without_configuration = sample();
    without_configuration.0[8] = 1;
    assert!(matches!(error_of(&without_configuration), Error::NotAStream { at: 8, found: 1, .. }));
}

#[test]
fn flags_commands_and_sections_of_other_capabilities_are_named() {
    let cases: [(Add<'_>, &str); 7] = [
        (
            &|bytes| {
                bytes.u64(0x40);
            },
            "xbzrle",
        ),
        (
            &|bytes| {
                bytes.u64(0x1000 | 0x40 | 0x20);
            },
            "xbzrle",
        ),
        (
            &|bytes| {
                bytes.u64(0x80);
            },
            "rdma-pin-all (RDMA)",
        ),
        (
            &|bytes| {
                bytes.u64(0x100);
            },
            "compress",
        ),
        (
            &|bytes| {
                bytes.u64(0x400);
            },
            "unknown to this release",
        ),
        (
            &|bytes| {
                bytes.close().raw(&[8, 0, 1, 0, 0]);
            },
            "return-path",
        ),
        (
            &|bytes| {
                bytes.close().raw(&[1]).u32(9).name("dirty-bitmap").u32(0).u32(1);
            },
            "dirty-bitmap",
        ),
    ];
    for (make, wanted) in cases {
        let mut bytes = opened();
        make(&mut bytes);
        match error_of(&bytes) {
            Error::Capability { capability, .. } => assert_eq!(capability, wanted),
            other => panic!("{wanted}: {other}"),
        }
    }
}

#[test]
fn subsections_of_the_configuration_are_read_and_kept() {
    let mut bytes = Bytes::header("pc");
    bytes.raw(&[5]).name("configuration/target-page-bits").u32(1).u32(12);
    bytes.raw(&[5]).name("configuration/uuid").u32(1).raw(&[7; 16]);
    let kept = bytes.0.clone();
    bytes.start(&blocks()).close().go_on(3).close().finish();
    let (_, device, _) = split_bytes(&bytes).unwrap();
    assert_eq!(device, bytes.0);
    assert_eq!(device[..kept.len()], kept);

    let mut with_capability = Bytes::header("pc");
    with_capability.raw(&[5]).name("configuration/capabilities").u32(1).u32(1).name("x-ignore-shared");
    let error = error_of(&with_capability);
    assert!(
        matches!(&error, Error::Capability { capability, .. } if capability == "x-ignore-shared"),
        "{error}"
    );
    let mut large_pages = Bytes::header("pc");
    large_pages.raw(&[5]).name("configuration/target-page-bits").u32(1).u32(16);
    assert!(error_of(&large_pages).to_string().contains("2^16 bytes"));
    let mut unknown = Bytes::header("pc");
    unknown.raw(&[5]).name("configuration/colour").u32(1);
    assert!(error_of(&unknown).to_string().contains("configuration/colour"));
}

#[test]
fn contradictions_are_refused() {
    let cases: [(&str, Add<'_>); 10] = [
        ("0x8000 of block 'cram', which has 0x8000", &|bytes| {
            bytes.page(Some("cram"), 8 * 4096, None);
        }),
        ("not listed", &|bytes| {
            bytes.page(Some("dram"), 0, None);
        }),
        ("without the name", &|bytes| {
            bytes.page(None, 0, None);
        }),
        ("filled with 0x01", &|bytes| {
            bytes.u64(0x02).name("cram").raw(&[1]);
        }),
        ("footer", &|bytes| {
            bytes.u64(0x10).raw(&[0x7e]).u32(RAM_ID + 1);
        }),
        ("footer", &|bytes| {
            bytes.u64(0x10).raw(&[0x7f]).u32(RAM_ID);
        }),
        ("not open", &|bytes| {
            bytes.close().raw(&[2]).u32(RAM_ID + 1);
        }),
        ("second", &|bytes| {
            bytes.close().start(&blocks());
        }),
        ("before the end", &|bytes| {
            bytes.close().device(7, "cpu", &[]);
        }),
        ("no section has type 0x09", &|bytes| {
            bytes.close().raw(&[9]);
        }),
    ];
    for (wanted, make) in cases {
        let mut bytes = opened();
        make(&mut bytes);
        let error = error_of(&bytes);
        assert!(error.to_string().contains(wanted), "{wanted}: {error}");
        assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    }
}

#[test]
fn lengths_are_capped_before_anything_is_allocated() {
    let mut long_machine = Bytes(b"QEVM\0\0\0\x03\x07".to_vec());
    long_machine.u32(u32::MAX);
    assert!(matches!(error_of(&long_machine), Error::TooLarge { at: 9, .. }));
    let mut large_memory = Bytes::header("pc");
    large_memory.start(&[("cram".to_owned(), 1 << 50)]).close();
    assert!(matches!(error_of(&large_memory), Error::TooLarge { value, .. } if value == 1 << 50));
    let mut many_blocks = Bytes::header("pc");
    let empty: Vec<_> = (0..300).map(|n| (format!("b{n}"), 0)).chain([("cram".to_owned(), 4096)]).collect();
    many_blocks.start(&empty).close();
    assert!(matches!(error_of(&many_blocks), Error::TooLarge { .. }));
}

#[test]
fn a_guest_without_the_block_says_which_it_has() {
    let error =
        split(&sample().0[..], "pc.ram", &mut MemoryTemplate::default(), &mut Vec::new()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("cram, pc.bios, vga.rom") && text.contains("'pc.ram'"), "{text}");
}

#[test]
fn templates_of_other_suspensions_are_not_joined() {
    let (_, device, _) = split_bytes(&sample()).unwrap();
    let error = join(&device[..], "cram", &MemoryTemplate::default(), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::OtherTemplate { template_bytes: 0, block_bytes: 32768, .. }), "{error}");
    let (template, ..) = split_bytes(&sample()).unwrap();
    let error = join(&sample().0[..], "cram", &template, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("no device stream"), "{error}");
}

#[test]
fn failing_outputs_are_told_apart() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = split(&sample().0[..], "cram", &mut MemoryTemplate::default(), &mut Full).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    impl migration::stream::TemplateSink for Full {
        fn write_page(&mut self, _: u64, _: &[u8; 4096]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn set_len(&mut self, _: u64) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = split(&sample().0[..], "cram", &mut Full, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Template { .. }), "{error}");
}
