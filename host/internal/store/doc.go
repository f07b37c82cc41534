// Package store keeps what runtimes hand over: sealed functions, wrapped keys,
// and the few rows that say whose they are. Everything in it is ciphertext or
// routing; no runtime believes any of it without checking.
//
// Rows live in SQL that SQLite and PostgreSQL both run. Bodies of functions
// live in a blob bucket. A function exists when its row does: the body is
// written first, so a crash in between leaves an orphan body that Sweep removes.
package store
