"""How a scan is run: in this process, in many, on a cluster; afresh or resumed."""
