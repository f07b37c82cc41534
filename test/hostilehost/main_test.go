// Package hostilehost plays the operator of a platform as an enemy: it owns the
// database, the identity provider, the network and the boot of the enclave, and
// uses each against the real runtime and the real client. Every test is one
// thing that it tries.
package hostilehost

import (
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

func TestMain(m *testing.M) { platform.Main(m, "../..") }
