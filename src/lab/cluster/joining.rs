//! Nodes that a running cluster did not begin with.

use super::{Cluster, Member, address, data_root, free_ports, log_path};

impl Cluster {
    /// Makes room for one more node, which joins through the node at `through` once it is started by
    /// [`Cluster::restart`]. Gives its index.
    pub fn prepare_to_join(&mut self, through: usize) -> anyhow::Result<usize> {
        let ports = free_ports(&self.runtime, 2)?;
        let (listen, peer_listen) = (address(ports[0]), address(ports[1]));
        let id = self.members.iter().map(|member| member.id).max().unwrap_or(0) + 1;
        let data = data_root(&self.spec).join(format!("node-{id}"));
        let arguments = [
            "serve",
            "--id",
            &id.to_string(),
            "--mode",
            self.spec.mode.as_str(),
            "--listen",
            &listen.to_string(),
            "--peer-listen",
            &peer_listen.to_string(),
            "--join",
            &self.members[through].listen.to_string(),
            "--data-dir",
            &data.display().to_string(),
            "--engine",
            self.spec.engine.as_str(),
        ];
        let arguments = arguments.map(str::to_owned).into_iter().chain(self.spec.flags.clone());
        self.members.push(Member {
            id,
            listen,
            peer_listen,
            data,
            arguments: arguments.collect(),
            log: log_path(&self.spec, id),
            child: None,
        });
        Ok(self.members.len() - 1)
    }
}
