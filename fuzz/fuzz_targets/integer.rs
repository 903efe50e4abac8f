#![no_main]

use ghostbit::deploy::IntegerNetwork;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(network) = IntegerNetwork::parse(data) {
        let bytes = network.to_checkpoint().expect("what was read can be written").serialize().expect("and serialized");
        assert_eq!(IntegerNetwork::parse(&bytes).expect("what was written can be read"), network);
    }
});
