// Package lockfile changes small files safely: one process at a time, and never half.
package lockfile
