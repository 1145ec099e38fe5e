//! What both engines must do.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn engines() -> Vec<Arc<dyn IoEngine>> {
    assert_eq!(detect().kind, EngineKind::Ring, "{}", detect());
    vec![start(EngineKind::Ring), start(EngineKind::Pool)]
}

fn file(dir: &tempfile::TempDir, len_bytes: u64) -> Arc<RawFile> {
    let file = RawFile::create(&dir.path().join("file")).unwrap();
    file.allocate(0, len_bytes).unwrap();
    Arc::new(file)
}

fn block(fill: u8, len: usize) -> AlignedBytes {
    let mut buf = AlignedBuf::zeroed(len);
    buf.fill(fill);
    buf.freeze()
}

async fn write_and_read_many(engine: &Arc<dyn IoEngine>, file: &Arc<RawFile>) {
    let count = 600u64;
    let writes: Vec<_> = (0..count)
        .map(|n| {
            let piece = block(n as u8, 4096);
            let pieces = if n % 3 == 0 { vec![piece.clone(), piece] } else { vec![block(n as u8, 8192)] };
            write(engine, file, n * 8192, pieces, None)
        })
        .collect();
    for end in futures::future::join_all(writes).await {
        end.unwrap();
    }
    engine.sync(file).unwrap();
    let reads: Vec<_> = (0..count).map(|n| read(engine, file, n * 8192, AlignedBuf::zeroed(8192), None)).collect();
    for (n, end) in futures::future::join_all(reads).await.into_iter().enumerate() {
        assert!(end.unwrap().iter().all(|b| *b == n as u8), "block {n}");
    }
}

#[test]
fn more_operations_than_the_ring_holds() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir, 8 * 1024 * 1024);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(write_and_read_many(&engine, &file));
        let (again, file) = (Arc::clone(&engine), Arc::clone(&file));
        runtime.block_on(async move {
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    let (engine, file) = (Arc::clone(&again), Arc::clone(&file));
                    tokio::spawn(async move { write_and_read_many(&engine, &file).await })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}

#[test]
fn several_runtimes_one_after_the_other_and_at_once_on_one_thread() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir, 8 * 1024 * 1024);
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write_and_read_many(&engine, &file));
        }
        let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let two = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for runtime in [&one, &two, &one] {
            runtime.block_on(write_and_read_many(&engine, &file));
        }
    }
}

#[test]
fn works_outside_a_runtime() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir, 8 * 1024 * 1024);
        futures::executor::block_on(write_and_read_many(&engine, &file));
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn dropped_futures_and_dropped_runtimes_let_operations_finish() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir, 16 * 1024 * 1024);
        let alive = Arc::new(AtomicUsize::new(0));
        for round in 0..4 {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                for n in 0..300u64 {
                    alive.fetch_add(1, Ordering::SeqCst);
                    let keep: Keep = Arc::new(Counted(Arc::clone(&alive)));
                    let offset = (n % 16) * 1024 * 1024;
                    if n % 2 == 0 {
                        drop(write(&engine, &file, offset, vec![block(round, 1024 * 1024)], Some(keep)));
                    } else {
                        drop(read(&engine, &file, offset, AlignedBuf::zeroed(1024 * 1024), Some(keep)));
                    }
                }
            });
            drop(runtime);
        }
        // The pool may still be at it; nothing is ever left behind.
        while alive.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut buf = AlignedBuf::zeroed(4096);
        file.read_exact_at(0, &mut buf).unwrap();
        assert!(buf.iter().all(|b| *b == buf[0]));
    }
}

#[test]
fn errors_arrive() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short");
        std::fs::write(&path, vec![1u8; 4096]).unwrap();
        let whole = Arc::new(RawFile::open(&path).unwrap());
        let read_only = Arc::new(RawFile::open_read_only(&path).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let past = read(&engine, &whole, 0, AlignedBuf::zeroed(8192), None).await.unwrap_err();
            assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
            let refused = write(&engine, &read_only, 0, vec![block(1, 4096)], None).await.unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
            let found = read(&engine, &read_only, 0, AlignedBuf::zeroed(4096), None).await.unwrap();
            assert!(found.iter().all(|b| *b == 1));
        });
    }
}

#[test]
fn detection_says_why() {
    let line = detect().to_string();
    assert!(line.starts_with("drive I/O uses "), "{line}");
}
