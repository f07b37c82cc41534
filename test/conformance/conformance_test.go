// Package conformance holds clients and documents that exist outside this
// repository against a running platform: the published pycape, and
// spec/control-api.yaml.
package conformance

import (
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

func TestMain(m *testing.M) { platform.Main(m, "../..") }
