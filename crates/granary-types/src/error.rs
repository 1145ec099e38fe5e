//! The small kind that every crate's precise error maps to. Only the S3 front door turns kinds (with
//! the precise error beside them) into S3 codes.

/// What sort of failure an error is, whoever raised it. Each crate's error enum has `fn kind()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing asked for does not exist.
    NotFound,
    /// A precondition failed, or another writer won.
    Conflict,
    /// The request is malformed or out of bounds.
    Invalid,
    /// The caller may not do this.
    Denied,
    /// Try again: overloaded, draining, too few drives up, out of space.
    Unavailable,
    /// Bytes on disk failed verification and could not be rebuilt.
    Corrupt,
    /// A bug or a broken promise of the machine underneath.
    Internal,
}
