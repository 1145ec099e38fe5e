//! `granary-bench`: loads any S3 endpoint and says what it takes and what it costs.

fn main() -> std::process::ExitCode {
    granary_bench::main()
}
