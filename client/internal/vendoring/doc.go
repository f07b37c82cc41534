// Package vendoring fetches a function's dependencies into its folder, for the Python
// and platform of the enclave, by the pip of the user's machine. The same versions give
// the same bytes, and so the same function checksum; with byte code so does the same Python.
package vendoring
