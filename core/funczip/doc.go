// Package funczip packs a deploy folder into the zip whose SHA-256 is the
// function's checksum. The same folder gives the same bytes on every machine,
// and those of the original command line tool.
//
// It trusts nothing about the folder: it refuses links that lead out of it,
// files that are not regular, names that no enclave would take, and more data
// than its caller allows. The client calls it, with a file system and a writer
// of its own. spec/zip.md states the format.
package funczip
