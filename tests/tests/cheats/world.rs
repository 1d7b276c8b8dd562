//! Jobs, and the models that run them honestly and otherwise.

use std::collections::BTreeMap;

use swarm_crypto::digest::{Digest, blake3};
use swarm_inference::testing::{Change, Storage, changed};
use swarm_inference::{
    Batch, BatchLimits, Compute, Decoder, Interrupt, Model, Sequence, Tokenizer, candidates, finish_output,
    queenbee,
};
use swarm_node::workload::{Models, recomputed, rescore_request};
use swarm_protocol::Timestamp;
use swarm_protocol::acceptance::AcceptanceFault;
use swarm_protocol::codec::{JobId, Link, raw_cid};
use swarm_protocol::distance::{Distances, Draws, measure};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::sampler::{Candidate, draw, sample};
use swarm_protocol::statement::{Assurance, Input, Job, JobType, Params, Proof};
use swarm_protocol::transcript::{Step, StopReason, Transcript};

/// The opening of *Emma*, 1815: prompts are pieces of it.
pub const TEXT: &str = "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to \
    unite some of the best blessings of existence; and had lived nearly twenty-one years in the world with very little to \
    distress or vex her. She was the youngest of the two daughters of a most affectionate, indulgent father; and had, in \
    consequence of her sister's marriage, been mistress of his house from a very early period. Her mother had died too long \
    ago for her to have more than an indistinct remembrance of her caresses; and her place had been supplied by an excellent \
    woman as governess, who had fallen little short of a mother in affection.";
const LENGTHS: [u32; 4] = [8, 24, 48, 96];
/// Temperature and top-p in 1/10000.
const SAMPLINGS: [(u32, u32); 5] =
    [(0, 10_000), (7_000, 10_000), (10_000, 9_000), (10_000, 10_000), (13_000, 9_500)];

/// A job under a lease.
#[derive(Debug, Clone)]
pub struct Case {
    pub job: Job,
    pub lease: Digest,
    pub prompt: Vec<u32>,
}

impl Case {
    /// What its tokens are drawn with.
    pub fn draws(&self) -> Draws {
        Draws::of(&self.lease, &self.job.params)
    }

    /// The same job in another's hands.
    pub fn leased_to(&self, other: u8) -> Self {
        Self { lease: blake3(&[&self.lease.0[..], &[other]].concat()), ..self.clone() }
    }

    pub fn is_greedy(&self) -> bool {
        self.job.params.temperature == 0
    }
}

/// What a miner hands in.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub steps: Vec<Step>,
    pub stop: StopReason,
}

/// The models of one pool, and those that cheats use instead.
pub struct World {
    models: Models,
    pub tokenizer: Tokenizer,
    pub top_k: usize,
    context: usize,
    decoders: BTreeMap<&'static str, Decoder>,
}

impl World {
    pub fn new() -> Self {
        let right = queenbee();
        let mut world = Self {
            models: Models::load(&[]).unwrap(),
            tokenizer: right.tokenizer().unwrap(),
            top_k: right.manifest.top_k as usize,
            context: right.manifest.context_length as usize,
            decoders: BTreeMap::new(),
        };
        let stored = |storage| changed(&right, Change::Stored(storage)).unwrap();
        world.add("one core", &right, Compute::OneCore);
        world.add("all cores", &right, Compute::AllCores);
        world.add("f32 on all cores", &stored(Storage::F32), Compute::AllCores);
        world.add("f16 on all cores", &stored(Storage::F16), Compute::AllCores);
        world.add("Q5_0", &stored(Storage::Q5_0), Compute::OneCore);
        world.add("Q4_0", &stored(Storage::Q4_0), Compute::OneCore);
        for (name, blocks) in [("5 of 6 blocks", 5), ("3 of 6 blocks", 3)] {
            world.add(name, &changed(&right, Change::Shortened(blocks)).unwrap(), Compute::OneCore);
        }
        let blurred = changed(&right, Change::Blurred { share: 0.1, seed: 7 }).unwrap();
        world.add("weights off by 10 %", &blurred, Compute::OneCore);
        world
    }

    fn add(&mut self, name: &'static str, model: &Model, compute: Compute) {
        self.decoders.insert(name, Decoder::from_gguf(&mut model.open().unwrap(), compute).unwrap());
    }

    pub fn decoder(&self, name: &str) -> &Decoder {
        &self.decoders[name]
    }

    /// Job number `n`, always the same: pieces of the text, of all lengths and ways of sampling.
    pub fn case(&self, n: u64) -> Case {
        let dice = blake3(&n.to_be_bytes());
        let roll =
            |at: usize, sides: usize| dice.0[at] as usize * 256 % sides + dice.0[at + 1] as usize % sides;
        let ids = self.tokenizer.encode(TEXT).unwrap();
        let length = 6 + roll(0, 60) % 60;
        let from = (u16::from_be_bytes([dice.0[2], dice.0[3]]) as usize) % (ids.len() - length);
        let text = String::from_utf8_lossy(&self.tokenizer.decode(&ids[from..from + length])).into_owned();
        let (temperature, top_p) = SAMPLINGS[dice.0[4] as usize % SAMPLINGS.len()];
        let params = Params {
            max_tokens: LENGTHS[dice.0[5] as usize % LENGTHS.len()],
            temperature,
            top_p,
            seed: Some(n),
            stop: Vec::new(),
        };
        let prompt = self.tokenizer.encode_prompt(&text).unwrap();
        Case { job: job(text, params), lease: blake3(&[&dice.0[..], b"lease"].concat()), prompt }
    }

    /// The same job with a prompt that was changed a little.
    pub fn changed_prompt(&self, case: &Case) -> Case {
        let Input::Text(text) = &case.job.input else { unreachable!("cases have texts") };
        let text = match text.trim_end().rsplit_once(' ') {
            Some((before, _)) => format!("{before} not"),
            None => format!("{text} not"),
        };
        let prompt = self.tokenizer.encode_prompt(&text).unwrap();
        Case { job: job(text, case.job.params.clone()), prompt, ..case.clone() }
    }

    /// Runs a job: `choose` is given the position, the text so far and what the model offers, and says what is signed.
    pub fn generate(
        &self,
        decoder: &Decoder,
        case: &Case,
        choose: &mut dyn FnMut(usize, Vec<Candidate>) -> Step,
    ) -> Delivery {
        let (mut sequence, mut steps) = (Sequence::default(), Vec::<Step>::new());
        let mut logits = decoder.forward(&mut sequence, &case.prompt, Interrupt::default()).unwrap();
        loop {
            let step = choose(steps.len(), offered(&logits, self.top_k));
            let token = step.token;
            steps.push(step);
            if let Some(stop) = self.ended(case, &steps) {
                return Delivery { steps, stop };
            }
            logits = decoder.forward(&mut sequence, &[token], Interrupt::default()).unwrap();
        }
    }

    /// Why a run ends here, if it does.
    pub fn ended(&self, case: &Case, steps: &[Step]) -> Option<StopReason> {
        if steps.last().map(|step| step.token) == self.tokenizer.eos() {
            Some(StopReason::Eos)
        } else if steps.len() >= case.job.params.max_tokens as usize {
            Some(StopReason::MaxTokens)
        } else if case.prompt.len() + steps.len() >= self.context {
            Some(StopReason::Context)
        } else {
            None
        }
    }

    /// Runs a job as agreed.
    pub fn honest(&self, name: &str, case: &Case) -> Delivery {
        let draws = case.draws();
        self.generate(self.decoder(name), case, &mut |n, candidates| sampled(n, candidates, &draws))
    }

    /// Runs jobs as agreed, all at once.
    pub fn honest_together(&self, name: &str, cases: &[Case]) -> Vec<Delivery> {
        let limits = BatchLimits { max_sequences: cases.len(), max_cache_bytes: 64 << 20 };
        let mut batch = Batch::new(self.decoder(name), limits);
        let join = |case: &Case| batch.join(&case.prompt, case.job.params.max_tokens as usize).unwrap();
        let ids: Vec<_> = cases.iter().map(join).collect();
        let mut steps = vec![Vec::new(); cases.len()];
        let mut stops = vec![None; cases.len()];
        while stops.iter().any(Option::is_none) {
            for offer in batch.step(Interrupt::default()).unwrap() {
                let at = ids.iter().position(|id| *id == offer.sequence).unwrap();
                let step = sampled(steps[at].len(), offered(&offer.logits, self.top_k), &cases[at].draws());
                let token = step.token;
                steps[at].push(step);
                stops[at] = self.ended(&cases[at], &steps[at]);
                match stops[at] {
                    Some(_) => _ = batch.leave(offer.sequence),
                    None => batch.push(offer.sequence, token).unwrap(),
                }
            }
        }
        let pairs = steps.into_iter().zip(stops);
        pairs.map(|(steps, stop)| Delivery { steps, stop: stop.unwrap() }).collect()
    }

    /// What the operator says before it pays: the whole acceptance rule, check A in it.
    pub fn accepted(&self, case: &Case, delivery: &Delivery) -> Result<(), AcceptanceFault> {
        let transcript = self.transcript(case, delivery);
        let bytes = transcript.encode();
        let tokens: Vec<u32> = delivery.steps.iter().map(|step| step.token).collect();
        let output = finish_output(&self.tokenizer, &tokens, self.tokenizer.eos(), &[]);
        let proof = Proof {
            job: JobId::of(b"job"),
            lease: case.lease,
            transcript: Link::of(&bytes),
            transcript_bytes: bytes.len() as u64,
            output: raw_cid(&output),
            output_bytes: output.len() as u64,
        };
        let model = self.models.get(&case.job.model).unwrap();
        model.accept(&case.job, None, &[], (&proof, &bytes, &output)).unwrap().map(|_| ())
    }

    pub fn transcript(&self, case: &Case, delivery: &Delivery) -> Transcript {
        Transcript {
            model: case.job.model.clone(),
            model_digest: self.models.get(&case.job.model).unwrap().digest(),
            prompt: case.prompt.clone(),
            steps: delivery.steps.clone(),
            stop: delivery.stop,
        }
    }

    /// Check B on this kernel.
    pub fn audited(&self, auditor: &str, case: &Case, delivery: &Delivery) -> Distances {
        let request = rescore_request(&self.transcript(case, delivery), self.top_k as u32);
        let own = self.decoder(auditor).rescore(&request, Interrupt::default()).unwrap();
        let own: Vec<_> = own.into_iter().map(recomputed).collect();
        let draws = case.draws();
        let draws = (case.job.assurance == Assurance::Seeded).then_some(&draws);
        measure(&delivery.steps, &own, draws).unwrap()
    }

    /// What the model on this kernel offers at every position of a text.
    pub fn scored(&self, name: &str, case: &Case, delivery: &Delivery) -> Vec<Vec<Candidate>> {
        let request = rescore_request(&self.transcript(case, delivery), self.top_k as u32);
        let own = self.decoder(name).rescore(&request, Interrupt::default()).unwrap();
        own.into_iter().map(|own| recomputed(own).top[..self.top_k].to_vec()).collect()
    }
}

fn job(text: String, params: Params) -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: "queenbee-nano".into(),
        input: Input::Text(text),
        params,
        price: MicroUsdc(100_000),
        not_after: Timestamp(1_800_000_060_000),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

fn offered(logits: &[f32], top_k: usize) -> Vec<Candidate> {
    let all = candidates(logits, top_k).unwrap();
    all.into_iter().map(|c| Candidate { token: c.token, cost: c.cost }).collect()
}

/// What the sampler picks.
pub fn picked(n: usize, candidates: &[Candidate], draws: &Draws) -> u32 {
    sample(draws.temperature, draws.top_p, draw(&draws.seed, n as u64), candidates).unwrap()
}

/// A step as agreed.
pub fn sampled(n: usize, candidates: Vec<Candidate>, draws: &Draws) -> Step {
    Step { token: picked(n, &candidates, draws), candidates }
}
