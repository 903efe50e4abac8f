#![no_main]

use ghostbit::tensor::io::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(c) = Checkpoint::parse(data) {
        let _ = c.validate("file");
        let bytes = c.serialize().expect("what was read can be written");
        let again = Checkpoint::parse(&bytes).expect("what was written can be read");
        assert_eq!(again.serialize().expect("and written again"), bytes);
    }
});
