// Package handler runs functions: it starts a jailed Python worker for a
// connection, hands it inputs, and brings back results.
//
// It trusts its own Python files, the interpreter, and package sandbox. The
// function is hostile: everything that comes from the worker is read with
// limits and deadlines, and a worker that breaks the protocol is ended. Package
// session calls it, and package intake by way of Check.
package handler
