#![no_main]

use ghostbit::data::cifar::{Kind, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for kind in [Kind::Cifar10, Kind::Cifar100] {
        if let Ok(set) = parse(data, kind) {
            assert_eq!((set.images.len(), set.labels.len()), (set.n * 3072, set.n));
            assert!(set.labels.iter().all(|&l| (l as usize) < set.classes));
        }
    }
});
