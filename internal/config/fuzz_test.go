package config

import (
	"strings"
	"testing"
)

// FuzzFile reads files: the reader says what is wrong with any of them.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "---\n", "store: redis\nnamespaces: {}\n", "redis_password: hunter2\nredis_password: [hunter2]\n", "redis_url: [redis://a:hunter2@b/x]\nstore_timeout: soon\n",
		"&a redis_password: *a\n", "<<: {redis_password: hunter2}\nredis_sentinel_password:\n  hunter2: [hunter2]\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := parseFile("c.yaml", data)
		c := Default()
		c.flags = c.Flags()
		c.flags.Apply(file.flags)
		if err := file.err(); err != nil && !strings.HasPrefix(err.Error(), "c.yaml:") {
			t.Errorf("the error does not name the file: %v", err)
		}
	})
}
