package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// tokenPrefix lets people, and scanners for secrets, see what a token is for.
const tokenPrefix = "rld_"

// hashPrefix says how a file writes a token.
const hashPrefix = "sha256:"

// NewToken returns a random bearer token of 256 bits.
func NewToken() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
}

// HashLine returns what stands for a token in a file.
func HashLine(token string) string {
	hash := sha256.Sum256([]byte(token))
	return hashPrefix + hex.EncodeToString(hash[:])
}
