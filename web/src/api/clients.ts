// The services, as the page calls them: Connect over the page's own origin.

import { createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

import { ActivationService } from "../generated/endoscope/v1/activation_pb";
import { AuditService } from "../generated/endoscope/v1/audit_pb";
import { DatasetService } from "../generated/endoscope/v1/dataset_pb";
import { GradientService } from "../generated/endoscope/v1/gradient_pb";
import { JobService } from "../generated/endoscope/v1/job_service_pb";
import { ModelService } from "../generated/endoscope/v1/model_pb";
import { TechniqueService } from "../generated/endoscope/v1/technique_pb";
import { authorization } from "./access";

const authorize: Interceptor = (next) => (request) => {
  const shown = authorization();
  if (shown) request.header.set("Authorization", shown);
  return next(request);
};

const transport = createConnectTransport({
  baseUrl: location.origin,
  useBinaryFormat: true,
  interceptors: [authorize],
});

export const models = createClient(ModelService, transport);
export const datasets = createClient(DatasetService, transport);
export const activations = createClient(ActivationService, transport);
export const gradients = createClient(GradientService, transport);
export const audits = createClient(AuditService, transport);
export const jobs = createClient(JobService, transport);
export const techniques = createClient(TechniqueService, transport);
