// Package vectors reads and writes the scenarios of spec/vectors: what the
// generator writes and what the Go tests read has one shape, defined here.
package vectors
