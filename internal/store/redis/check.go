package redis

// Check returns which option is wrong, if New would refuse one. It reads the
// files of TLS certificates, and connects to nothing.
func (o Options) Check() error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	_, _, err = o.universal()
	return err
}
