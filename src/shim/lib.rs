//! Room shim: the process guard of one job. Single-threaded, no tokio.
