#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| actix_nacos::testing::fuzz::login_answer(input));
