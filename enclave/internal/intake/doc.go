// Package intake decides whether a zip may become a function, and unpacks it.
//
// It trusts nothing about the zip, its headers least: sizes are counted while
// data flow. It refuses whatever could leave the directory it unpacks into,
// whatever is not a plain file or folder, names that two systems would read
// differently, and shared objects that this enclave could never load. Package
// session calls it, once when a function is deployed and again when a stored
// one is loaded.
package intake
