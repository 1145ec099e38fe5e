//! Builds the C++ shim that gives RocksDB its sealed Env (`cpp/sealed_env.cc`), against the very headers of the
//! RocksDB that `librocksdb-sys` builds.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=cpp/sealed_env.cc");
    // `links = "rocksdb"` in librocksdb-sys hands its manifest folder to direct dependents.
    let sys = PathBuf::from(
        std::env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR").expect("librocksdb-sys says where its sources are"),
    );
    let include = sys.join("rocksdb/include");
    assert!(include.join("rocksdb/env_encryption.h").exists(), "no RocksDB headers in {}", include.display());
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .include(include)
        .define("NDEBUG", None)
        .define("OS_LINUX", None)
        .define("ROCKSDB_PLATFORM_POSIX", None)
        .define("ROCKSDB_LIB_IO_POSIX", None)
        .flag("-include")
        .flag("cstdint")
        .warnings(false)
        .file("cpp/sealed_env.cc")
        .compile("granary_sealed_env");
}
