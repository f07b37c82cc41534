package wire

import (
	"crypto/sha256"
	"math/big"
	"regexp"
	"strings"
)

// idAlphabet is that of base57 short UUIDs: no 0, 1, I, O, l.
const idAlphabet = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// IDLength is the length of every function id, in characters.
const IDLength = 22

// FunctionID names a function by its manifest: the base57 form of the first
// 16 bytes of SHA-256("cape v2 id\0" || manifest), most significant digit
// first, padded to 22 characters.
func FunctionID(manifest []byte) string {
	sum := sha256.Sum256(append([]byte("cape v2 id\x00"), manifest...))
	return base57(sum[:16])
}

func base57(b []byte) string {
	n := new(big.Int).SetBytes(b)
	base, digit := big.NewInt(int64(len(idAlphabet))), new(big.Int)
	out := make([]byte, IDLength)
	for i := IDLength - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		out[i] = idAlphabet[digit.Int64()]
	}
	return string(out)
}

// ValidID says whether s has the form of a function id.
func ValidID(s string) bool {
	if len(s) != IDLength {
		return false
	}
	for _, c := range s {
		if !strings.ContainsRune(idAlphabet, c) {
			return false
		}
	}
	return true
}

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	userPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@|-]*$`)
)

// ValidFunctionName says whether s may name a function: letters, digits,
// ".", "_" and "-", not starting with a sign, at most MaxFunctionName bytes.
func ValidFunctionName(s string) bool {
	return len(s) <= MaxFunctionName && namePattern.MatchString(s)
}

// ValidUsername says whether s may stand for a user in a route.
func ValidUsername(s string) bool { return len(s) <= MaxUsername && userPattern.MatchString(s) }
