// A RocksDB Env whose files are ciphertext: RocksDB's own encrypted file system over a provider of ours.
//
// All cryptography is on the Rust side (src/rocks.rs), reached through five functions. This file only fits
// them into RocksDB's classes, and makes three corrections to the encrypted file system:
//   - whole buffers go to the cipher at once (the stock CTR stream calls the cipher per 16 bytes);
//   - the info log is a sealed file too (the stock wrapper hands it to the plain file system);
//   - a file cut inside its prefix has length 0 (the stock wrapper subtracts and wraps around).
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <rocksdb/env.h>
#include <rocksdb/env_encryption.h>
#include <rocksdb/file_system.h>

using ROCKSDB_NAMESPACE::BlockAccessCipherStream;
using ROCKSDB_NAMESPACE::EncryptionProvider;
using ROCKSDB_NAMESPACE::Env;
using ROCKSDB_NAMESPACE::EnvOptions;
using ROCKSDB_NAMESPACE::FileAttributes;
using ROCKSDB_NAMESPACE::FileSystem;
using ROCKSDB_NAMESPACE::FileSystemWrapper;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::IOStatus;
using ROCKSDB_NAMESPACE::Logger;
using ROCKSDB_NAMESPACE::Slice;
using ROCKSDB_NAMESPACE::Status;

extern "C" {

// As in RocksDB's db/c.cc; rocksdb_env_destroy deletes both.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};

// What Rust provides. `context` and streams may be used from several threads at once.
struct granary_cipher {
  void* context;
  size_t prefix_bytes;
  // 0: done.
  int (*new_prefix)(const void* context, uint8_t* prefix, size_t len);
  // 0: `*stream` is set. 1: not a sealed file, or its prefix is damaged. 2: sealed with another key.
  int (*open)(const void* context, const uint8_t* prefix, size_t len, void** stream);
  // Encrypts or decrypts in place. 0: done.
  int (*apply)(const void* stream, uint64_t offset, uint8_t* data, size_t len);
  void (*close)(void* stream);
  void (*drop)(void* context);
};

}  // extern "C"

namespace {

class SealedStream final : public BlockAccessCipherStream {
 public:
  SealedStream(const granary_cipher& cipher, void* stream) : cipher_(cipher), stream_(stream) {}
  ~SealedStream() override { cipher_.close(stream_); }
  SealedStream(const SealedStream&) = delete;
  SealedStream& operator=(const SealedStream&) = delete;

  size_t BlockSize() override { return 16; }

  Status Encrypt(uint64_t offset, char* data, size_t len) override { return Apply(offset, data, len); }
  Status Decrypt(uint64_t offset, char* data, size_t len) override { return Apply(offset, data, len); }

 protected:
  // Never called: Encrypt and Decrypt above take whole buffers.
  void AllocateScratch(std::string&) override {}
  Status EncryptBlock(uint64_t, char*, char*) override { return Status::NotSupported("whole buffers only"); }
  Status DecryptBlock(uint64_t, char*, char*) override { return Status::NotSupported("whole buffers only"); }

 private:
  Status Apply(uint64_t offset, char* data, size_t len) {
    if (len == 0) return Status::OK();
    if (cipher_.apply(stream_, offset, reinterpret_cast<uint8_t*>(data), len) != 0) {
      return Status::Corruption("sealed file: the cipher failed");
    }
    return Status::OK();
  }

  const granary_cipher cipher_;
  void* const stream_;
};

class SealedProvider final : public EncryptionProvider {
 public:
  explicit SealedProvider(const granary_cipher& cipher) : cipher_(cipher) {}
  ~SealedProvider() override { cipher_.drop(cipher_.context); }

  const char* Name() const override { return "GranarySealed"; }
  size_t GetPrefixLength() const override { return cipher_.prefix_bytes; }

  Status CreateNewPrefix(const std::string& name, char* prefix, size_t len) const override {
    if (cipher_.new_prefix(cipher_.context, reinterpret_cast<uint8_t*>(prefix), len) != 0) {
      return Status::IOError(name, "no sealed prefix could be made");
    }
    return Status::OK();
  }

  Status AddCipher(const std::string&, const char*, size_t, bool) override {
    return Status::NotSupported("the key is given when the Env is made");
  }

  Status CreateCipherStream(const std::string& name, const EnvOptions&, Slice& prefix,
                            std::unique_ptr<BlockAccessCipherStream>* result) override {
    void* stream = nullptr;
    const auto* bytes = reinterpret_cast<const uint8_t*>(prefix.data());
    switch (cipher_.open(cipher_.context, bytes, prefix.size(), &stream)) {
      case 0:
        result->reset(new SealedStream(cipher_, stream));
        return Status::OK();
      case 2:
        return Status::Corruption(name, "sealed with another key");
      default:
        return Status::Corruption(name, "not a sealed file, or its prefix is damaged");
    }
  }

 private:
  const granary_cipher cipher_;
};

class SealedFileSystem final : public FileSystemWrapper {
 public:
  explicit SealedFileSystem(const std::shared_ptr<FileSystem>& encrypted) : FileSystemWrapper(encrypted) {}

  const char* Name() const override { return "GranarySealedFileSystem"; }

  IOStatus NewLogger(const std::string& name, const IOOptions& options, std::shared_ptr<Logger>* result,
                     IODebugContext* dbg) override {
    // The base class writes it through NewWritableFile of this object.
    return FileSystem::NewLogger(name, options, result, dbg);
  }

  IOStatus GetFileSize(const std::string& name, const IOOptions& options, uint64_t* size,
                       IODebugContext* dbg) override {
    IOStatus status = FileSystemWrapper::GetFileSize(name, options, size, dbg);
    if (status.ok()) Unwrap(size);
    return status;
  }

  IOStatus GetChildrenFileAttributes(const std::string& dir, const IOOptions& options,
                                     std::vector<FileAttributes>* result, IODebugContext* dbg) override {
    IOStatus status = FileSystemWrapper::GetChildrenFileAttributes(dir, options, result, dbg);
    if (status.ok()) {
      for (auto& file : *result) Unwrap(&file.size_bytes);
    }
    return status;
  }

 private:
  static void Unwrap(uint64_t* size) {
    if (*size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) *size = 0;
  }
};

}  // namespace

// Takes over `cipher->context`. Returns null only where the encrypted file system could not be made.
extern "C" rocksdb_env_t* granary_sealed_env_create(const granary_cipher* cipher) {
  try {
    auto provider = std::make_shared<SealedProvider>(*cipher);
    auto encrypted = ROCKSDB_NAMESPACE::NewEncryptedFS(FileSystem::Default(), provider);
    if (encrypted == nullptr) return nullptr;
    std::unique_ptr<Env> env = ROCKSDB_NAMESPACE::NewCompositeEnv(std::make_shared<SealedFileSystem>(encrypted));
    auto* handle = new rocksdb_env_t;
    handle->rep = env.release();
    handle->is_default = false;
    return handle;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
