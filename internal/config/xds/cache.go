package xds

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// The cache file is a line, cacheMark with a checksum, and then the message as the server
// sent it: the resources, and their version.
const cacheMark = "ratelimitd limits of xDS, format 1, sha256 "

// errCache is why a cache file is refused.
var errCache = errors.New("it is damaged, or of another server or node id; remove it")

// checksum tells a message of this server for this node from all others.
func (c *Client) checksum(message []byte) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q ", c.o.Server, c.o.NodeID)
	sum.Write(message)
	return hex.EncodeToString(sum.Sum(nil))
}

// encodeCache returns what the cache file holds for m.
func (c *Client) encodeCache(m *discoveryv3.DiscoveryResponse) ([]byte, error) {
	message, err := proto.MarshalOptions{Deterministic: true}.Marshal(&discoveryv3.DiscoveryResponse{
		VersionInfo: m.GetVersionInfo(), TypeUrl: TypeURL, Resources: m.GetResources(),
	})
	if err != nil {
		return nil, err
	}
	return append([]byte(cacheMark+c.checksum(message)+"\n"), message...), nil
}

// readCache returns what the cache file holds, and its bytes. Without a file, there is
// neither.
func (c *Client) readCache() (*discoveryv3.DiscoveryResponse, []byte, error) {
	f, err := os.Open(c.o.CacheFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	most := c.o.MaxMessageBytes + 1<<10
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	switch {
	case err != nil:
		return nil, nil, err
	case len(data) > most:
		return nil, nil, fmt.Errorf("it has more than the %d bytes that a message may have; remove it", c.o.MaxMessageBytes)
	}
	head, message, _ := bytes.Cut(data, []byte("\n"))
	if string(head) != cacheMark+c.checksum(message) {
		return nil, nil, errCache
	}
	m := new(discoveryv3.DiscoveryResponse)
	if err := proto.Unmarshal(message, m); err != nil {
		return nil, nil, errCache
	}
	return m, data, nil
}

// writeFile replaces a file at once: whoever reads it finds what it held before or all
// of data.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
